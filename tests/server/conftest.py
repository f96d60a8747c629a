"""Real servers: `ztp serve` as a process of its own on a free port, over a real store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser
from tests.serving import TOKEN, Service, start_service

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """(storage, *flags, token=None, command="serve"): a server that ends with the test."""
    started: list[Service] = []

    def make(storage: str, *flags: object, **options: Any) -> Service:
        started.append(start_service(tmp_path, storage, *flags, **options))
        return started[-1]

    yield make
    for service in started:
        service.end()


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that studies may read, with a folder of images, weights, and links that lead out of it."""
    root = tmp_path_factory.mktemp("root")
    (root / "images" / "cat").mkdir(parents=True)
    (root / "weights.safetensors").write_bytes(b"weights")
    (root / "out").symlink_to("/usr")
    (root / "loop").symlink_to("loop")
    (root / "inside").symlink_to("images")
    for name, path in (
        ("shadow.csv", "/etc/shadow"),
        ("climbing.tsv", "../../x.png"),
        ("linked.csv", "out/share/x.png"),
    ):
        (root / name).write_text(f"path,label\n{path},0\n".replace(",", "\t" if ".tsv" in name else ","))
    return root


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, filled_file: Path, data_root: Path) -> Iterator[Service]:
    """One server with a token for all tests, without workers; it holds the finished study "shirts"."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(filled_file, folder / "ztp.db")
    made = start_service(folder, f"sqlite:///{folder}/ztp.db", "--workers", 0, "--data-root", data_root, token=TOKEN)
    yield made
    assert made.end() == 0
    assert "Traceback" not in made.said()


def wait_for(holds: Callable[[], Any], limit_s: float = 120.0) -> Any:
    """What `holds` answers, once it is true."""
    deadline = time.monotonic() + limit_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return answer


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., Any]:
    return wait_for


TINY = """name: tiny
backbone: {name: demo}
data: {source: demo, search_images: 24, confirm_images: 8}
budget: {trials: 4}
space: {methods: [tome], max_stages: 3}
sampler: {name: random}
runtime: {batch_size: 4, dtype: float32, device: cpu}
"""


@pytest.fixture
def tiny() -> str:
    """A real study that takes seconds."""
    return TINY


def new_study(name: str) -> str:
    return f"name: {name}\nbackbone: {{name: demo}}\nbudget: {{trials: 8}}\n"


@pytest.fixture(name="new_study")
def _new_study() -> Callable[[str], str]:
    """The YAML of a study by this name."""
    return new_study


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path / "profile")
    yield made
    made.close()
