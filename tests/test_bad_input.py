"""Everything that a user can get wrong: exit 2, one message with place and value and remedy, nothing written.

Each row is one mistake and the words that the message must hold. To add one: a row in the table it belongs to.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from search.store.fronts import Store

Ztp = Callable[..., Any]
Row = tuple[Any, ...]

DEMO: dict[str, Any] = {"name": "mine", "backbone": {"name": "demo"}, "data": {"source": "demo", "search_images": 20}}
FOLDER: dict[str, Any] = {
    "name": "mine",
    "backbone": {"name": "vit_tiny_patch16_224", "weights": "random"},
    "data": {"path": "images", "search_images": 2, "confirm_images": 2},
    "objectives": {"accuracy": "agreement"},
}


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted names set, {"budget.trials": 0} say."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        if key:
            result.setdefault(section, {})[key] = value
        else:
            result[section] = value
    return result


@pytest.fixture
def refused(ztp: Ztp, tmp_path: Path) -> Callable[..., None]:
    """Runs a command and checks all that holds for every refusal."""

    def check(argv: list[str], *words: str) -> None:
        before = snapshot(tmp_path)
        ran = ztp(*argv)
        assert ran.code == 2, ran
        assert ran.out == ""
        for word in words:
            assert word in ran.err
        assert "Traceback" not in ran.err
        messages = [line for line in ran.err.splitlines() if line.startswith("ztp: ")]
        assert messages == ran.err.splitlines()[-1:]  # before it, at most the line that says what is being loaded
        assert snapshot(tmp_path) == before

    return check


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file with its content, but for the two that SQLite keeps beside an open database."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {path: path.read_bytes() for path in files}


# A study that contradicts the contract, by itself or against the bundled backbone

STUDIES: list[Row] = [
    ({"budgets": {"trials": 3}}, "budgets is not a known key", "did you mean budget?"),
    ({"budget.trails": 3}, "budget.trails is not a known key", "did you mean trials?"),
    (
        {"space.methods": ["zero-prune"]},
        "space.methods must hold only known methods",
        "zero-tprune",
        "got ['zero-prune']",
    ),
    ({"space.methods": []}, "space.methods must be a list of one or more of", "got []"),
    ({"space.methods": ["random", "random"]}, "space.methods must name each method once", "got ['random', 'random']"),
    ({"space.keep": [0.5, 1.4]}, "space.keep must hold numbers in (0, 1]", "got [0.5, 1.4]"),
    ({"space.keep": [0, 1]}, "space.keep must hold numbers in (0, 1]", "got [0, 1]"),
    ({"space.keep": [0.9, 0.5]}, "space.keep must be [low, high] with low at most high", "got [0.9, 0.5]"),
    ({"space.keep": [1.0, 1.0]}, "space.keep must reach below 1", "got [1.0, 1.0]"),
    ({"space.keep": 0.7}, "space.keep must be [low, high]", "got 0.7"),
    ({"space.keep": [0.001, 1.0], "space.max_stages": 1}, "space.keep must leave", "after 1 stage", "0.001", "raise"),
    ({"space.blocks": [5, 2]}, "space.blocks must be [low, high] with low at most high", "got [5, 2]"),
    ({"space.blocks": [-1, 5]}, "space.blocks must hold whole numbers from 0", "got [-1, 5]"),
    ({"space.blocks": [0, 11]}, "space.blocks must end at 10 or below", "12 blocks", "got [0, 11]", "lower it"),
    ({"space.max_stages": 0}, "space.max_stages", "got 0"),
    ({"space.max_stages": 12}, "space.max_stages must be at most 11", "got 12", "lower it"),
    ({"space.blocks": [3, 4], "space.max_stages": 3}, "max_stages 3 for the 2 blocks of [3, 4]", "lower"),
    ({"space.wpr_iterations": [0, 5]}, "space.wpr_iterations must hold whole numbers in 1..100", "got [0, 5]"),
    ({"space.wpr_iterations": [1, 101]}, "space.wpr_iterations must hold whole numbers in 1..100", "got [1, 101]"),
    ({"space.wpr_iterations": [1.5, 3]}, "space.wpr_iterations must be [low, high], two whole numbers", "1.5"),
    ({"space.partition": [0.0, 0.5]}, "space.partition must hold numbers in (0, 1)", "got [0.0, 0.5]"),
    ({"space.similarity_share": [0.0, 1.5]}, "space.similarity_share must hold numbers in [0, 1]", "got [0.0, 1.5]"),
    ({"budget.trials": 0}, "budget.trials must be at least 1", "got 0", "default is 200"),
    ({"budget.trials": 10**400}, "budget.trials must be at most 1000000", "default is 200"),
    ({"budget.trials": "many"}, "budget.trials", "got 'many'"),
    ({"budget.trials": True}, "budget.trials", "got True"),
    ({"budget.time": "3 minutes"}, "budget.time must be a duration above zero such as 90s", "got '3 minutes'"),
    ({"budget.time": "0s"}, "budget.time must be a duration above zero", "got '0s'"),
    ({"budget.time": 180}, "budget.time must be a duration", "got 180"),
    ({"budget.max_gflops": -1.0}, "budget.max_gflops must be above 0", "got -1.0"),
    ({"budget.max_gflops": 0.001}, "mine: budget.max_gflops must be at least", "got 0.001", "raise it"),
    ({"budget.min_speedup": 0}, "budget.min_speedup must be above 0", "got 0"),
    ({"budget.max_accuracy_drop": 5.0}, "budget.max_accuracy_drop must be at most 1", "got 5.0"),
    ({"sampler.name": "nsga3"}, "sampler.name must be one of", "nsga2", "got 'nsga3'"),
    ({"sampler.seed": -1}, "sampler.seed", "got -1"),
    ({"objectives.accuracy": "top5"}, "objectives.accuracy must be 'top1' or 'agreement'", "got 'top5'"),
    ({"objectives.throughput": "guessed"}, "objectives.throughput", "'measured' or 'onnxruntime'", "got 'guessed'"),
    (
        {"objectives.throughput": "onnxruntime", "runtime.dtype": "bfloat16"},
        "runtime.dtype must be auto or float32 for objectives.throughput onnxruntime",
        "got 'bfloat16'; leave it out",
    ),
    (
        {"objectives.throughput": "onnxruntime", "runtime.device": "cuda"},
        "runtime.device must be auto or cpu for objectives.throughput onnxruntime",
        "got 'cuda'",
    ),
    ({"runtime.device": "gpu"}, "runtime.device must be auto, cpu", "got 'gpu'"),
    ({"runtime.dtype": "int8"}, "runtime.dtype", "'float32'", "got 'int8'"),
    ({"runtime.batch_size": 0}, "runtime.batch_size", "got 0"),
    ({"runtime.batch_size": 10**30}, "runtime.batch_size must be at most 65536", f"got {10**30}"),
    ({"runtime.workers": 10**6}, "runtime.workers must be at most 1024", "got 1000000"),
    ({"runtime.workers": 0}, "runtime.workers", "got 0"),
    ({"data.path": "images"}, "data must have either path", "got both"),
    ({"data.search_images": 0}, "data.search_images", "got 0"),
    ({"data.search_images": 2001}, "data must ask for at most 10000 bundled images", "search_images 2001", "lower one"),
    ({"backbone.weights": "pretrained"}, "backbone.weights must be bundled", "got 'pretrained'"),
    ({"backbone": {}}, "backbone.name is required", "demo"),
    ({"backbone": "demo"}, "backbone", "got 'demo'"),
    ({"name": "a/b"}, "name must be letters, digits", "got 'a/b'"),
    ({"name": ""}, "name must be letters, digits", "got ''"),
]


@pytest.mark.parametrize("row", STUDIES, ids=lambda row: str(row[0]))
def test_studies(refused: Callable[..., None], row: Row) -> None:
    changes, *words = row
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, changes)))
    refused(["launch", "study.yaml"], *words)


def test_a_refused_study_names_its_file(refused: Callable[..., None]) -> None:
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, {"budget.trials": 0})))
    refused(["launch", "study.yaml"], "ztp: study.yaml: budget.trials")


# Files that are no study

FILES: list[Row] = [
    (b"name: [unclosed", "study.yaml:1:16: must be valid YAML"),
    (b"name: a\nname: b\n", "study.yaml:2:1: must be valid YAML: key 'name' stands twice; remove one"),
    (b"\xff\xfe", "study.yaml: must be UTF-8 text"),
    (b"- name\n- backbone\n", "study.yaml: a study must be a mapping with name and backbone, got ['name', 'backbone']"),
    (b"", "study.yaml: a study must be a mapping with name and backbone, got None"),
    (b"name: mine\n", "study.yaml: backbone is required; for example"),
    (
        b"name: mine\nbackbone: {name: vit_tiny_patch16_224}\n",
        "study.yaml: data is required; give data: {path: FOLDER}",
    ),
]


@pytest.mark.parametrize("row", FILES, ids=lambda row: repr(row[0][:20]))
def test_files(refused: Callable[..., None], row: Row) -> None:
    content, *words = row
    Path("study.yaml").write_bytes(content)
    refused(["launch", "study.yaml"], *words)


# Backbones, weights and images that are not what they should be


@pytest.fixture
def images(ztp: Ztp) -> Path:
    """Two classes of four pictures each, in the current folder."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (Path("images") / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("images") / name / f"{i}.png")
    return Path("images")


def empty_folder(images: Path) -> None:
    for path in images.rglob("*.png"):
        path.unlink()


def no_classes(images: Path) -> None:
    for path in list(images.iterdir()):
        for picture in path.iterdir():
            picture.unlink()
        path.rmdir()


def corrupt_image(images: Path) -> None:
    for i in range(4):
        (images / "dog" / f"{i}.png").write_text("no picture")


def text_as_weights(images: Path) -> None:
    Path("weights.safetensors").write_text("no weights")


def code_as_weights(images: Path) -> None:
    Path("weights.pth").write_bytes(pickle.dumps(Path))


def small_weights(images: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"head.bias": np.zeros(3, dtype=np.float32)}, "weights.safetensors")


def nothing(images: Path) -> None:
    pass


WEIGHTS = {"backbone.weights": "weights.safetensors"}
BACKBONES_AND_IMAGES: list[Row] = [
    (
        nothing,
        {"backbone.name": "vit_tiny_patch16_244"},
        "backbone",
        "got 'vit_tiny_patch16_244'",
        "vit_tiny_patch16_224",
    ),
    (nothing, {"backbone.name": "resnet18"}, "ResNet cannot be pruned", "VisionTransformer"),
    (
        nothing,
        WEIGHTS,
        "mine: backbone.weights must be",
        "existing .safetensors or .pth file",
        "got 'weights.safetensors'",
    ),
    (text_as_weights, WEIGHTS, "weights.safetensors"),
    (small_weights, WEIGHTS, "weights.safetensors", "fit"),
    (code_as_weights, {"backbone.weights": "weights.pth"}, "weights.pth must hold tensors only"),
    (
        nothing,
        {"backbone.weights": "bundled"},
        "backbone.weights must be pretrained, random or a path",
        "got bundled",
    ),
    (
        nothing,
        {"data.path": "pictures"},
        "mine: data.path must be an existing folder or file",
        "got 'pictures'",
        "check the path",
    ),
    (empty_folder, {}, "images", "data.path"),
    (no_classes, {}, "images", "data.path"),
    (
        nothing,
        {"objectives.accuracy": "top1"},
        "data.path must have labels that are classes of the backbone (1000)",
        "got 2 class names (cat, dog)",
    ),
    (nothing, {"data.search_images": 100}, "100", "8", "data."),
    (corrupt_image, {"data.search_images": 6}, "images/dog/", ".png", "skip_corrupt"),
]


@pytest.mark.parametrize("row", BACKBONES_AND_IMAGES, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_backbones_and_images(refused: Callable[..., None], images: Path, row: Row) -> None:
    spoil, changes, *words = row
    spoil(images)
    Path("study.yaml").write_text(yaml.safe_dump(changed(FOLDER, changes)))
    refused(["launch", "study.yaml"], *words)


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
        "no point of the front is within --min-speedup 9",
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
        "limits are refused beside it, got --trial 3; drop one",
    ),
    (["export", "shirts", "-o", "no/best.yaml"], "no/best.yaml: cannot be written", "choose a writable folder"),
    (["dashboard", "--port", "70000"], "--port 70000: must be an address of this machine and a free port", "choose"),
    (["dashboard", "--host", "0.0.0.0"], "--host must be a loopback address", "got 0.0.0.0", "set ZTP_TOKEN"),
    (["dashboard", "--token-file", "no.txt"], "--token-file no.txt: cannot be read", "check the path"),
    (["serve", "--host", "0.0.0.0"], "--host must be a loopback address", "got 0.0.0.0", "set ZTP_TOKEN"),
    (["serve", "--workers", "-1"], "--workers must be in 0..256, got -1"),
    (["serve", "--token-file", "no.txt"], "--token-file no.txt: cannot be read", "check the path"),
    (["serve", "--data-root", "no"], "--data-root must be an existing folder, got 'no'", "check the path"),
    (["serve", "--port", "70000"], "--host 127.0.0.1 --port 70000: must be an address of this machine and a free port"),
    (["list", "--server", "ftp://host"], "--server must be an address such as http://", "got 'ftp://host'"),
    (["list", "--server", "http://me:pw@host"], "--server must hold no user and no password", "ZTP_TOKEN"),
    (["list", "--server", "http://127.0.0.1:1"], "--server http://127.0.0.1:1: cannot be reached", "ztp serve"),
    (["launch", "dem"], "study must be a YAML file or a built-in study", "got 'dem'", "did you mean demo?"),
    (["launch", "no.yaml"], "no.yaml: no such file; check the path"),
    (["launch"], "launch needs a study, or --backbone and --data; for example: ztp launch demo"),
    (["launch", "--backbone", "vit_tiny_patch16_224"], "launch needs both --backbone and --data"),
    (["launch", "demo", "--data", "images"], "demo: data.path must be an existing folder", "got 'images'"),
    (["launch", "demo", "--backbone", "demo"], "--backbone is for a launch without a file, got it beside demo"),
    (["launch", "deit-small"], "deit-small: data.path must be an existing folder", "got '/data/imagenet/val'"),
    (["launch", "mae-vit-large", "--data", ".", "--weights", "no.pth"], "backbone.weights must be", "got 'no.pth'"),
    (["launch", "demo", "--dry-run", "--max-gflops", "0.001"], "demo: budget.max_gflops must be at least", "raise it"),
    (["launch", "demo", "--dry-run", "--trials", "0"], "demo: budget.trials must be", "got 0"),
    (["launch", "demo", "--dry-run", "--data", "images", "--weights", "no.pth"], "weights must be bundled", "no.pth"),
    (["launch", "dem", "--dry-run"], "got 'dem'", "did you mean demo?"),
    (["launch", "--dry-run"], "launch needs a study, or --backbone and --data"),
    (["launch", "--dry-run", "--backbone", "resnet18", "--data", "no"], "ResNet cannot be pruned"),
    (["export", "shirts", "--onnx", "no/best.onnx"], "no/best.onnx: cannot be written", "choose a writable folder"),
    (["export", "shirts", "--onnx", "best.pb"], "best.pb: an ONNX file must end in .onnx", "rename it"),
    (["export", "shirts", "-o", "best.yaml", "--onnx", "no/best.onnx"], "no/best.onnx: cannot be written"),
    (["export", "shirts", "--onnx", "best.onnx"], "study shirts: backbone.fingerprint must be that of the weights"),
    (["evaluate", "best.yaml", "--runtime", "tensorflow"], "--runtime must be one of torch, onnxruntime", "tensorflow"),
    (["launch", "demo", "--trials", "0"], "demo: budget.trials must be", "got 0"),
    (["launch", "demo", "--time", "soon"], "demo: budget.time must be a duration", "got 'soon'"),
    (
        ["launch", "--backbone", "vit_tiny_patch16_224", "--data", "no"],
        "data.path must be an existing folder",
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
    (["compare", "--backbone", "demo", "--accuracy", "top5"], "objectives.accuracy must be 'top1' or", "got 'top5'"),
    (["compare", "--backbone", "demo", "--weights", "random"], "backbone.weights must be bundled", "got 'random'"),
    (["compare", "demo", "--methods", "tomme"], "--methods must name methods, got 'tomme'", "known: zero-tprune"),
    (["compare", "demo", "--options", "random.seed=x"], "options.seed must be a whole number", "got 'x'"),
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


# Storages


def text_file() -> None:
    Path("ztp.db").write_text("no database")


def foreign_database() -> None:
    with sqlite3.connect("ztp.db") as database:
        database.execute("CREATE TABLE customers (id INTEGER)")


def newer_schema() -> None:
    Store.open("sqlite:///ztp.db").close()
    with sqlite3.connect("ztp.db") as database:
        database.execute("UPDATE ztp_alembic_version SET version_num = '9999'")
    database.close()


def no_file() -> None:
    pass


STORAGES: list[Any] = [
    (no_file, "sqlite:///ztp.db", "no studies at sqlite:///ztp.db; launch one first"),
    (no_file, "sqlite:///no/ztp.db", "folder no must exist; create it first"),
    (no_file, "sqlite:///.", "must be a file, got a folder"),
    (no_file, "sqlite://", "must be a file that several processes can share", "use sqlite:///ztp.db"),
    (no_file, "ztp.db", "storage must be an SQLAlchemy URL such as sqlite:///ztp.db", "'ztp.db'", "check the URL"),
    (no_file, "oracle9://host/db", "must be sqlite, postgresql or mysql", "oracle9", "check the URL"),
    (no_file, "postgresql://me:secret@127.0.0.1:1/db", "me:***@127.0.0.1:1/db", "cannot be opened"),
    (text_file, "sqlite:///ztp.db", "file is not a whole SQLite database; choose another file"),
    (foreign_database, "sqlite:///ztp.db", "other tables", "customers", "choose another database"),
    (newer_schema, "sqlite:///ztp.db", "9999"),
]


@pytest.mark.parametrize("argv", [["list"], ["launch", "study.yaml"]], ids=" ".join)
@pytest.mark.parametrize("row", STORAGES, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_storages(refused: Callable[..., None], ztp: Ztp, row: Row, argv: list[str]) -> None:
    prepare, url, *words = row
    if prepare is no_file and url == "sqlite:///ztp.db" and argv[0] == "launch":
        pytest.skip("a launch creates its storage")
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, {"data.confirm_images": 20, "budget.trials": 1})))
    prepare()
    refused([*argv, "--storage", url], *words)


# Configurations that `ztp evaluate` cannot replay

CONFIGURATION: dict[str, Any] = {
    "format": 1,
    "backbone": {"name": "demo", "weights": "bundled"},
    "schedule": {"method": "zero-tprune", "stages": [{"block": 2, "keep": 0.9}]},
    "data": {"source": "demo", "search_images": 20, "confirm_images": 20},
    "runtime": {"dtype": "float32", "batch_size": 20},
}

CONFIGURATIONS: list[Row] = [
    ({"format": 2}, "best.yaml: format must be 1, got 2"),
    ({"schedules": {}}, "best.yaml: schedules is not a known key; known: format"),
    ({"backbone": {"name": "demo"}}, "best.yaml: backbone.weights must be text, got None"),
    ({"backbone.fingerprint": "0" * 16}, "best.yaml: backbone.fingerprint must be that of the weights", "0" * 16),
    ({"schedule.method": "zero"}, "best.yaml: schedule: method must be one of zero-tprune", "got 'zero'"),
    ({"schedule.stages": [{"block": 2, "keep": 1.4}]}, "stages[0].keep must be in (0, 1], got 1.4"),
    ({"schedule.stages": [{"block": 2, "keep": 0}]}, "stages[0].keep must be in (0, 1], got 0"),
    ({"schedule.stages": [{"blok": 2, "keep": 0.9}]}, "stages[0].blok is not a known key; known: block"),
    ({"schedule.stages": [{"block": 2}]}, "stages[0].keep is required"),
    (
        {"schedule.stages": [{"block": 11, "keep": 0.9}]},
        "best.yaml: schedule: stages[0].block must be at most 10",
        "got 11",
    ),
    ({"schedule.stages": [{"block": 2, "keep": 1e-5}]}, "best.yaml: schedule: stages[0].keep must leave at least one"),
    ({"metrics": {"search": 5}}, "best.yaml: metrics.search must be a mapping, got 5"),
    ({"metrics": {"search": {"accuracy": "high"}}}, "best.yaml: metrics.search.accuracy must be a number, got 'high'"),
    ({"metrics": {"flops": "few"}}, "best.yaml: metrics.flops must be a number, got 'few'"),
    ({"schedule.options": {"feature": "keys"}}, "options.feature must be one of key", "got 'keys'"),
    ({"runtime.dtype": "float8"}, "best.yaml: runtime.dtype", "got 'float8'"),
    ({"data": {"path": "no"}}, "data.path must be an existing folder or file", "got 'no'", "check the path"),
]


@pytest.mark.parametrize("row", CONFIGURATIONS, ids=lambda row: str(row[0]))
def test_configurations(refused: Callable[..., None], row: Row) -> None:
    changes, *words = row
    Path("best.yaml").write_text(yaml.safe_dump(changed(CONFIGURATION, changes)))
    refused(["evaluate", "best.yaml"], *words)


def test_other_images_that_are_not_there(refused: Callable[..., None]) -> None:
    Path("best.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    refused(
        ["evaluate", "best.yaml", "--data", "no"], "data.path must be an existing folder", "got 'no'", "check the path"
    )


def test_there_are_at_least_forty() -> None:
    tables = (STUDIES, FILES, BACKBONES_AND_IMAGES, COMMANDS, USAGE, STORAGES, CONFIGURATIONS)
    assert sum(map(len, tables)) >= 40
