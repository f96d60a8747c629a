"""Samplers of users' own over HTTP: those on the operator's list alone, by server and workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
YAML = {"Content-Type": "text/yaml"}
MODULE = """import os, optuna
open(os.path.join({folder!r}, {name!r} + ".imported"), "w").close()
class Mine(optuna.samplers.RandomSampler):
    def __init__(self, seed):
        super().__init__(seed)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With two modules that the server can import, each of which leaves a file when it is."""
    for name in ("listed", "other"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(folder=str(tmp_path), name=name))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path


def with_class(tiny: str, path: str) -> str:
    return tiny.replace("{name: random}", f"{{name: custom, class: '{path}'}}")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_listed_class_is_run_and_no_other_is_imported(
    start: Any,
    url: str,
    tiny: str,
    folder: Path,
    wait_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    if by == "environment":
        monkeypatch.setenv("ZTP_ALLOW_SAMPLERS", "listed:Mine")
    service = start(url, "--workers", 1, *(["--allow-sampler", "listed:Mine"] if by == "flag" else []))
    answer = service.api("POST", "/studies", content=with_class(tiny, "other:Mine"), headers=YAML)
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "source": "tiny",
        "place": "sampler.class",
        "rule": "must be a class that the operator allows (listed:Mine)",
        "got": "other:Mine",
        "remedy": "see --allow-sampler and ZTP_ALLOW_SAMPLERS",
        "message": "tiny: sampler.class must be a class that the operator allows (listed:Mine), got other:Mine; "
        "see --allow-sampler and ZTP_ALLOW_SAMPLERS",
    }
    assert service.api("POST", "/studies", content=with_class(tiny, "listed:Mine"), headers=YAML).status_code == 201
    shown = service.api("GET", "/studies/tiny").json()
    assert shown["spec"]["sampler"] == {"name": "custom", "class": "listed:Mine", "seed": 0, "probes": 10}
    assert not (folder / "other.imported").exists()
    if by == "environment":  # which processes have from the one that starts them; a flag must be passed on
        return
    wait_for(lambda: service.api("GET", "/studies/tiny").json()["state"] == "done")
    assert (folder / "listed.imported").exists()
    assert not (folder / "other.imported").exists()
    assert service.end() == 0
    assert "Traceback" not in service.said()


def test_none_is_listed_unless_the_operator_says_so(service: Any, tiny: str) -> None:
    answer = service.api("POST", "/studies", content=with_class(tiny, "pathlib:Path"), headers=YAML)
    assert answer.status_code == 422
    assert answer.json()["error"]["rule"] == "must be a class that the operator allows (none is listed)"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("listed", "--allow-sampler must be module:Class, my_package.samplers:MySampler say, got 'listed'"),
        ("no_such_module:A", "--allow-sampler must be a class that can be imported here, got no_such_module:A"),
        ("pathlib:Path", "--allow-sampler must be a subclass of optuna.samplers.BaseSampler, got pathlib:Path"),
    ],
)
def test_a_list_with_a_mistake_starts_no_server(ztp: Callable[..., Any], path: str, words: str) -> None:
    ran = ztp("serve", "--port", "0", "--allow-sampler", path)
    assert ran.code == 2
    assert words in ran.err
