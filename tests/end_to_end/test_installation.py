"""A wheel in an environment of its own, which holds what a plain install brings: no extra, no checkout.

Nothing is downloaded: the environment links to the packages of the running one that the wheel's metadata asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = ("pruning", "search", "studies", "pyproject.toml", "README.md", "LICENSE")
TINY = """name: tiny
backbone: {name: demo}
data: {source: demo, search_images: 24, confirm_images: 8}
budget: {trials: 4}
space: {methods: [tome], max_stages: 3}
sampler: {name: random}
runtime: {batch_size: 4, dtype: float32, device: cpu}
"""
Ztp = Callable[..., subprocess.CompletedProcess[str]]


def needed(requirements: list[str] | None, extras: set[str], known: dict[str, Distribution]) -> None:
    """Add to `known` the installed distributions that the requirements ask for, and what those ask for."""
    for requirement in map(Requirement, requirements or ()):
        marker, name = requirement.marker, requirement.name.lower().replace("_", "-")
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        if name not in known or requirement.extras:
            known[name] = distribution(name)
            needed(known[name].requires, requirement.extras | {""}, known)


def link(packages: list[Distribution], site: Path) -> None:
    """Make the packages importable from `site`."""
    for package in packages:
        assert package.files is not None, f"{package.name} does not list its files"
        for top in {path.parts[0] for path in package.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=folder, check=True)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *map(str, install)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (metadata,) = site.glob("zero_tprune_search-*.dist-info")
    known: dict[str, Distribution] = {}
    needed(Distribution.at(metadata).requires, set(), known)
    link(list(known.values()), site)
    return folder


@pytest.fixture(scope="module")
def ztp(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Ztp:
    """Runs the installed command in a folder of its own."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "tiny.yaml").write_text(TINY)

    def run(*argv: object) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "ztp"), *map(str, argv)]
        return subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True, timeout=300)

    return run


def plain_environment() -> dict[str, str]:
    """Without what leads back to the checkout."""
    hidden = ("PYTHONPATH", "ZTP_STORAGE", "ZTP_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def launched(ztp: Ztp) -> Path:
    """The folder in which the study tiny was launched."""
    ran = ztp("launch", "tiny.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "tiny: front of" in ran.stdout
    return Path(re.findall(r"plot: (.*)/tiny-front\.png", ran.stdout)[0])


def test_the_wheel_is_what_runs(environment: Path) -> None:
    code = "import pruning, search, studies; print(*(m.__file__ for m in (pruning, search, studies)), sep='\\n')"
    python = environment / "bin" / "python"
    ran = subprocess.run([python, "-c", code], cwd="/", env=plain_environment(), capture_output=True, text=True)
    assert [Path(line).is_relative_to(environment) for line in ran.stdout.split()] == [True] * 3


EXTRAS = ("fastapi", "prometheus_client", "ray", "onnx", "open_clip", "psycopg", "pymysql", "pyarrow", "mlflow")


@pytest.mark.parametrize("module", EXTRAS)
def test_a_plain_install_has_no_extra(environment: Path, module: str) -> None:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is not None)"
    assert (
        subprocess.run([environment / "bin" / "python", "-c", code], cwd="/", env=plain_environment()).returncode == 0
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], "launch, inspect, export"),
        (["backbones", "deit_tiny_patch16_224"], "deit_tiny_patch16_224"),
        (["doctor"], "device"),
    ],
)
def test_commands_that_need_no_study(ztp: Ztp, argv: list[str], words: str) -> None:
    ran = ztp(*argv)
    assert words in ran.stdout, ran.stderr


def test_a_study_is_launched_shown_exported_and_evaluated(ztp: Ztp, launched: Path) -> None:
    assert (launched / "tiny-front.html").exists()
    front = ztp("front", "tiny")
    assert "tiny: front of" in front.stdout
    assert ztp("front", "tiny", "--plot", "again.png").returncode == 0
    assert ztp("export", "tiny", "-o", "best.yaml").returncode == 0
    assert yaml.safe_load((launched / "best.yaml").read_text())["schedule"]
    ran = ztp("evaluate", "best.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_is_served(environment: Path, launched: Path) -> None:
    command = [environment / "bin" / "ztp", "dashboard", "--port", "0"]
    with subprocess.Popen(
        command, cwd=launched, env=plain_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert re.match(r"http://127\.0\.0\.1:\d+/dashboard", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("argv", "package", "extra"),
    [
        (["serve"], "fastapi", "serve"),
        (["launch", "tiny.yaml", "--storage", "postgresql://localhost/ztp"], "psycopg", "postgresql"),
        (["launch", "tiny.yaml", "--storage", "mysql://localhost/ztp"], "pymysql", "mysql"),
        (["launch", "ray.yaml", "--storage", "mysql://localhost/ztp"], "ray", "ray"),
        (["launch", "timed.yaml"], "onnxruntime", "onnx"),
        (["launch", "rows.yaml"], "pyarrow", "parquet"),
        (["launch", "shards.yaml"], "pyarrow", "parquet"),
        (["export", "tiny", "--onnx", "best.onnx"], "onnx", "onnx"),
        (["evaluate", "best.yaml", "--runtime", "onnxruntime"], "onnxruntime", "onnx"),
    ],
)
def test_what_needs_an_extra_says_how_to_install_it(
    ztp: Ztp, launched: Path, argv: list[str], package: str, extra: str
) -> None:
    """One line, before anything is computed or written."""
    (launched / "ray.yaml").write_text(TINY.replace("runtime: {", "runtime: {engine: ray, "))
    (launched / "timed.yaml").write_text(TINY + "objectives: {throughput: onnxruntime}\n")
    (launched / "shards").mkdir(exist_ok=True)
    for name in ("rows.parquet", "shards/validation-00000-of-00001.parquet"):
        (launched / name).touch()
    (launched / "rows.yaml").write_text(TINY.replace("source: demo", "path: rows.parquet").replace("tiny", "rows"))
    (launched / "shards.yaml").write_text(TINY.replace("source: demo", "path: shards").replace("tiny", "shards"))
    if not (launched / "best.yaml").exists():
        ztp("export", "tiny", "-o", "best.yaml")
    before = _files(launched)
    ran = ztp(*argv)
    assert (ran.returncode, ran.stdout) == (2, "")
    line = rf"ztp: .*\b{package}\b.*; pip install 'zero-tprune-search\[{extra}\]'\n"
    opened = "shards: loading the backbone and the images, .*\n"  # what a folder holds shows when it is opened
    assert re.fullmatch(f"({opened})?{line}", ran.stderr)
    assert _files(launched) == before


def _files(folder: Path) -> list[Path]:
    """What is in it, but for the files that SQLite keeps beside a database while it is open."""
    return sorted(path for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal")))
