"""How `ztp` starts: fast, without what the command does not need, and with the exit codes of the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import search.cli.inspect
from pruning.errors import PruningError
from search.config.builtin_studies import builtin_names
from search.errors import InputError, SearchError
from search.storage.store import Store

HEAVY = ("torch", "timm", "optuna", "matplotlib", "plotly", "fvcore", "optuna_dashboard")
START_LIMIT_S = 0.5  # of processor time: a busy machine is no reason to fail


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from search.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        f"    print('LOADED', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def loaded(ran: subprocess.CompletedProcess[str]) -> set[str]:
    return set(ran.stderr.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("argv", [["--help"], ["launch", "--help"], ["--version"], ["launch"], ["launch", "no.yaml"]])
def test_help_and_refusals_load_nothing_heavy(argv: list[str]) -> None:
    ran = run(*argv)
    assert loaded(ran) <= {"optuna"}  # a study's spec knows the samplers
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["launch", "compare"])
def test_help_says_everything_that_a_study_can_be_named_by(ztp: Callable[..., Any], command: str) -> None:
    words = " ".join(ztp(command, "--help").out.replace("│", " ").split())
    assert f"the path of a YAML file, or a built-in study ({', '.join(builtin_names())})" in words


@pytest.mark.parametrize("argv", [["list"], ["status", "shirts"], ["front", "shirts", "--json"], ["export", "shirts"]])
def test_reading_commands_load_no_torch(store: Store, argv: list[str]) -> None:
    ran = run(*argv, ZTP_STORAGE=store.url)
    assert ran.returncode == 0
    assert loaded(ran).isdisjoint({"torch", "timm", "matplotlib", "plotly", "optuna_dashboard"})


def test_it_starts_within_half_a_second() -> None:
    times = []
    for _ in range(3):
        before = os.times()
        assert subprocess.run([sys.executable, "-m", "search.cli", "--help"], capture_output=True).returncode == 0
        after = os.times()
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(times) < START_LIMIT_S


def test_the_module_runs_as_workers_are_started() -> None:
    ran = subprocess.run([sys.executable, "-m", "search.cli", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "ztp")


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("", "a rule"), 2), (PruningError("a rule"), 2), (SearchError("a rule"), 1)]
)
def test_exit_codes(ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail(storage: str, server: str | None) -> Store:
        raise error

    monkeypatch.setattr(search.cli.inspect, "open_reader", fail)
    ran = ztp("list")
    assert (ran.code, ran.out, ran.err) == (code, "", "ztp: a rule\n")


def test_a_defect_of_ours_keeps_its_traceback(ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(storage: str, server: str | None) -> Store:
        raise ZeroDivisionError

    monkeypatch.setattr(search.cli.inspect, "open_reader", fail)
    with pytest.raises(ZeroDivisionError):
        search.cli.main(["list"])


def test_output_into_a_closed_pipe_is_no_defect(store: Store) -> None:
    command = f"{sys.executable} -m search.cli front shirts --csv | head -c 10"
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "ZTP_STORAGE": store.url}
    )
    assert ran.stdout == "study,tria"
    assert "Traceback" not in ran.stderr


def test_dashboard_ends_quietly_on_interrupt(store: Store) -> None:
    command = [sys.executable, "-m", "search.cli", "dashboard", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ZTP_STORAGE": store.url}
    )
    assert process.stdout is not None
    assert "/dashboard  (Ctrl-C ends it)" in process.stdout.readline()
    process.send_signal(2)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_no_folder_of_ours_is_left_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "search.cli", "list"], capture_output=True, text=True, cwd=tmp_path, env={**os.environ}
    )
    assert ran.returncode == 2
    assert list(tmp_path.iterdir()) == []
