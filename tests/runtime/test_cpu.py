"""Workers share the cores that this process may use, and no more threads than the user has set."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.runtime import cpu


def test_cores_are_those_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    every = cpu.usable_cores()
    assert every >= 1
    for content, expected in (("50000 100000", 0.5), ("max 100000", every), ("nonsense", every)):
        (tmp_path / "cpu.max").write_text(content)
        assert cpu.usable_cores() == expected


@pytest.mark.parametrize(
    ("usable", "workers", "chosen", "each"),
    [(8, 2, "", 4), (8, 3, "", 2), (2, 4, "", 1), (0.5, 1, "", 1), (8, 2, "1", 1), (8, 2, "16", 4), (8, 2, "many", 4)],
)
def test_threads_are_an_even_share(
    usable: float, workers: int, chosen: str, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: usable)
    monkeypatch.setenv(cpu.THREADS, chosen)
    assert cpu.threads_each(workers) == each
