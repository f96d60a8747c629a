"""Temporary folders: gone with their process, however it ended, and never another's that lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import scratch
from search.scratch import make_scratch_folder, remove_scratch_folder

CODE = "from search.scratch import make_scratch_folder; print(make_scratch_folder(), flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(scratch, "FRESH_S", 0.0)
    yield
    tempfile.tempdir = None


def start() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_goes_with_its_process(tmp_path: Path) -> None:
    process, folder = start()
    assert folder.parent == tmp_path
    assert folder.is_dir()
    process.communicate("\n", timeout=60)
    assert not folder.exists()


def test_one_of_a_process_that_was_killed_goes_with_the_next_and_one_of_a_living_stays() -> None:
    (killed, left), (living, used) = start(), start()
    try:
        (left / "model.bin").write_bytes(b"weights")
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=60)
        own = make_scratch_folder()
        assert not left.exists()
        assert used.is_dir()
        again = make_scratch_folder()
        assert own.is_dir()
        for folder in (own, again):
            remove_scratch_folder(folder)
            assert not folder.exists()
    finally:
        living.communicate("\n", timeout=60)


def test_a_fresh_one_may_be_about_to_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "FRESH_S", 60.0)
    fresh = tmp_path / f"{scratch.PREFIX}fresh"
    fresh.mkdir()
    remove_scratch_folder(make_scratch_folder())
    assert fresh.is_dir()
    os.utime(fresh, (0, 0))
    remove_scratch_folder(make_scratch_folder())
    assert not fresh.exists()
