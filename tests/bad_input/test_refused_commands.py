"""Commands that name what is not there, or ask for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.store import Store
from tests.bad_input.documents import Row, Ztp, snapshot

# Commands that name what is not there, or ask for what cannot be; the store holds the study "shirts"

COMMANDS: list[Row] = [
    (["front", "shirt"], "study must be one at sqlite:///", "got 'shirt'", "did you mean shirts?"),
    (["status", "zzz"], "got 'zzz'", "known: shirts"),
    (["export", "zzz"], "got 'zzz'", "known: shirts"),
    (["worker", "zzz"], "got 'zzz'", "known: shirts"),
    (["front", "shirts", "--json", "--csv"], "front takes one of --json, --csv and --plot", "run it once for each"),
    (["front", "shirts", "--plot", "front.pdf"], "--plot: the file must end in .png or .html", "'front.pdf'", "rename"),
    (
        ["front", "shirts", "--plot", "no/front.png"],
        "no/front.png: cannot be written: folder no must exist",
        "create it",
    ),
    (["export", "shirts", "--min-accuracy", "89"], "--min-accuracy must be a fraction in [0, 1], got 89; write 0.89"),
    (["export", "shirts", "--max-gflops", "0"], "--max-gflops must be above 0, got 0"),
    (["export", "shirts", "--min-speedup", "nan"], "--min-speedup must be above 0, got nan"),
    (
        ["export", "shirts", "--min-speedup", "9"],
        "no point of the front is within min_speedup 9",
        "nearest",
        "loosen",
    ),
    (["export", "shirts", "--trial", "99"], "--trial must be an evaluated trial of shirts, got 99; on the front: 0, 2"),
    (
        ["export", "shirts", "--trial", str(10**30)],
        "--trial must be an evaluated trial of shirts",
        "on the front: 0, 2",
    ),
    (["export", "shirts", "--trial", "-1"], "--trial must be an evaluated trial of shirts, got -1"),
    (
        ["export", "shirts", "--trial", "3", "--max-gflops", "1"],
        "limits are refused beside it, got 3; drop one",
    ),
    (["export", "shirts", "-o", "no/best.yaml"], "no/best.yaml: cannot be written", "choose a writable folder"),
    (["dashboard", "--port", "70000"], "--port 70000 must be an address of this machine and a free port", "choose"),
    (["dashboard", "--host", "0.0.0.0"], "--host must be a loopback address", "got 0.0.0.0", "set ZTP_TOKEN"),
    (["dashboard", "--token-file", "no.txt"], "--token-file no.txt: cannot be read", "check the path"),
    (["serve", "--host", "0.0.0.0"], "--host must be a loopback address", "got 0.0.0.0", "set ZTP_TOKEN"),
    (["serve", "--workers", "-1"], "--workers must be in 0..256, got -1"),
    (["serve", "--token-file", "no.txt"], "--token-file no.txt: cannot be read", "check the path"),
    (["serve", "--dashboard-port", "8080"], "--dashboard-port must be left out, got 8080", "/dashboard of --port"),
    (["serve", "--root-path", "ztp/"], "--root-path must be the path before", "such as /ztp, got 'ztp/'"),
    (["serve", "--data-root", "no"], "--data-root must be an existing folder, got 'no'", "check the path"),
    (["serve", "--port", "70000"], "--host 127.0.0.1 --port 70000 must be an address of this machine and a free port"),
    (["list", "--server", "ftp://host"], "--server must be an address such as http://", "got 'ftp://host'"),
    (["list", "--server", "http://me:pw@host"], "--server must hold no user and no password", "ZTP_TOKEN"),
    (["list", "--server", "http://127.0.0.1:1"], "--server http://127.0.0.1:1: cannot be reached", "ztp serve"),
    (["launch", "dem"], "study must be a YAML file or a built-in study", "got 'dem'", "did you mean demo?"),
    (["launch", "no.yaml"], "no.yaml: no such file; check the path"),
    (["launch"], "launch needs a study, or --backbone and --data; for example: ztp launch demo"),
    (["launch", "--backbone", "vit_tiny_patch16_224"], "launch needs both --backbone and --data"),
    (["launch", "demo", "--data", "images"], "ztp: --data must be an existing folder", "got 'images'"),
    (["launch", "demo", "--backbone", "demo"], "--backbone is for a launch without a file, got it beside demo"),
    (["launch", "deit-small"], "deit-small: data.path must be an existing folder", "got '/data/imagenet/val'"),
    (["launch", "mae-vit-large", "--data", ".", "--weights", "no.pth"], "ztp: --weights must be", "got 'no.pth'"),
    (["launch", "demo", "--dry-run", "--max-gflops", "0.001"], "ztp: --max-gflops must be at least", "raise it"),
    (["launch", "demo", "--dry-run", "--trials", "0"], "ztp: --trials must be at least 1, got 0"),
    (["launch", "demo", "--dry-run", "--data", "images", "--weights", "no.pth"], "--weights must be bundled", "no.pth"),
    (["launch", "dem", "--dry-run"], "got 'dem'", "did you mean demo?"),
    (["launch", "--dry-run"], "launch needs a study, or --backbone and --data"),
    (["launch", "--dry-run", "--backbone", "resnet18", "--data", "no"], "ResNet cannot be pruned"),
    (["export", "shirts", "--onnx", "no/best.onnx"], "no/best.onnx: cannot be written", "choose a writable folder"),
    (["export", "shirts", "--onnx", "best.pb"], "best.pb: an ONNX file must end in .onnx", "rename it"),
    (["export", "shirts", "-o", "best.yaml", "--onnx", "no/best.onnx"], "no/best.onnx: cannot be written"),
    (["export", "shirts", "--onnx", "best.onnx"], "study shirts: backbone.fingerprint must be that of the weights"),
    (["evaluate", "best.yaml", "--runtime", "tensorflow"], "--runtime must be one of torch, onnxruntime", "tensorflow"),
    (["evaluate", "best.yaml", "--runtime", "executorch"], "--runtime must be one of", "ExecuTorch 1.5 has no kernel"),
    (["evaluate", "best.yaml", "--int8"], "--int8 needs --runtime; say onnxruntime or openvino"),
    (["launch", "demo", "--trials", "0"], "ztp: --trials must be at least 1, got 0"),
    (["launch", "demo", "--time", "soon"], "ztp: --time must be a duration", "got 'soon'"),
    (["launch", "demo", "--time", "0s", "--trials", "0"], "ztp: --trials must be", "; also: --time must be a duration"),
    (
        ["launch", "--backbone", "vit_tiny_patch16_224", "--data", "no"],
        "ztp: --data must be an existing folder",
        "got 'no'",
    ),
    (["evaluate", "best.yaml"], "best.yaml: no such file; check the path"),
    (["front", "shirts", "shirt"], "study must be one at sqlite:///", "got 'shirt'", "did you mean shirts?"),
    (["front", "shirts", "shirts"], "front takes each study once, got shirts shirts"),
    (["visualize", "best.yaml"], "best.yaml: no such file; check the path"),
    (["visualize", "best.yaml", "-o", "a.jpg"], "--output: the file must end in .png, got 'a.jpg'; rename it"),
    (["visualize", "best.yaml", "-o", "no/a.png"], "no/a.png: cannot be written: folder no must exist"),
    (["visualize", "best.yaml", "a.png", "--count", "3"], "--count is for a sheet without image files", "drop one"),
    (["visualize", "best.yaml", "a.png", "--data", "x"], "--data is for a sheet without image files", "beside a.png"),
    (["compare"], "compare needs a study, --backbone or --config; for example: ztp compare demo"),
    (["compare", "dem"], "study must be a YAML file or a built-in study", "got 'dem'", "did you mean demo?"),
    (["compare", "demo", "--data", "x"], "--data is for a comparison without a study, got it beside demo; drop one"),
    (["compare", "--data", "x"], "compare needs a study, --backbone or --config"),
    (["compare", "--backbone", "vit_tiny_patch16_224"], "compare: data is required"),
    (["compare", "--backbone", "vit_tiny_patch16_224", "--data", "no"], "data.path must be an existing folder", "'no'"),
    (["compare", "--backbone", "demo", "--data", "x", "--source", "demo"], "data must have either path", "got both"),
    (
        ["compare", "--backbone", "demo", "--accuracy", "top5"],
        "objectives.accuracy must be 'top1', 'agreement'",
        "got 'top5'",
    ),
    (["compare", "--backbone", "demo", "--weights", "random"], "backbone.weights must be bundled", "got 'random'"),
    (["compare", "demo", "--methods", "tomme"], "--methods must name methods, got 'tomme'", "known: zero-tprune"),
    (["compare", "demo", "--options", "random.seed=x"], "options.seed must be a whole number", "got 'x'"),
    (["compare", "demo", "--options", "tome.preset=paper"], "tome.preset must be left out for tome, which has none"),
    (["compare", "demo", "--options", "zero-tprune.preset=x"], "zero-tprune.preset must be one of paper, got x"),
    (["compare", "demo", "--keep", "0.5,small"], "--keep must be numbers separated by commas, got '0.5,small'"),
    (["compare", "demo", "--keep", "1.2"], "--keep must hold numbers in (0, 1), got 1.2"),
    (["compare", "demo", "--blocks", "2,5.5"], "--blocks must be whole numbers separated by commas, got '2,5.5'"),
    (["compare", "demo", "--keep", "0.5", "--gflops", "1"], "two ways to say the same, got both; drop one"),
    (["compare", "demo", "--json", "--csv"], "compare prints one of --json and --csv, got both"),
    (["compare", "demo", "--plot", "a.pdf"], "--plot: the file must end in .png or .html, got 'a.pdf'; rename it"),
    (["compare", "--from", "no.json"], "--from no.json: cannot be read", "check the path"),
    (["compare", "demo", "--config", "no.yaml"], "no.yaml: no such file; check the path"),
    (["compare", "demo", "--gflops", "1"], "--gflops must be below the 0.3533 GFLOPs of the dense model, got 1; lower"),
    (["compare", "demo", "--gflops", "0.01"], "0.01 GFLOPs: some method must reach it, got none", "cannot go below"),
    (["compare", "demo", "--blocks", "2,11"], "--blocks must be at most 10 for a backbone of 12 blocks", "got 11"),
    (["compare", "demo", "--images", "9001"], "--images must be in 1..9000", "no search has seen, got 9001"),
]


@pytest.fixture
def shirts(store: Store, ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTP_STORAGE", store.url)


@pytest.mark.usefixtures("shirts")
@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: " ".join(row[0]))
def test_commands(refused: Callable[..., None], row: Row) -> None:
    argv, *words = row
    refused(argv, *words)


# Words that the command line does not know are typer's to refuse: its box, the same exit code

USAGE: list[Row] = [
    (["frot", "shirts"], "No such command 'frot'", "front"),
    (["front"], "Missing argument 'NAME...'"),
    (["front", "shirts", "--jsn"], "No such option: --jsn", "--json"),
    (["launch", "demo", "--trials", "many"], "'--trials': must be a whole number, got 'many'"),
    (["export", "shirts", "--max-gflops", "small"], "'--max-gflops': must be a number, got 'small'"),
]


@pytest.mark.parametrize("row", USAGE, ids=lambda row: " ".join(row[0]))
def test_usage(ztp: Ztp, tmp_path: Path, row: Row) -> None:
    argv, *words = row
    ran = ztp(*argv)
    assert (ran.code, ran.out) == (2, "")
    for word in words:
        assert word in ran.err
    assert "Traceback" not in ran.err
    assert snapshot(tmp_path) == {}
