"""`ztp doctor` on this machine: what each number means, and how findings are shown."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from search.reporting import doctor, tables
from search.storage.health import FAIL, OK, WARN, Check

TOKEN = "0123456789abcdefghijkl"  # the shortest that is taken

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "bound", "state", "words"),
    [
        ("numpy", "numpy>=1.26", OK, ""),
        ("numpy", None, OK, ""),
        ("numpy", "numpy>=99", FAIL, "pip install --upgrade 'numpy>=99'"),
        ("no-such-package", "no-such-package>=1", FAIL, "pip install 'no-such-package>=1'"),
    ],
)
def test_packages_are_held_against_what_this_release_asks_for(
    name: str, bound: str | None, state: str, words: str
) -> None:
    check = doctor.package_check(name, Requirement(bound) if bound else None)
    assert (check.state, check.remedy) == (state, words)


@pytest.mark.parametrize(
    ("threads", "cores", "state"), [(1, 1, OK), (2, 2, OK), (4, 2, WARN), (1, 0.5, OK), (2, 1.5, WARN)]
)
def test_more_threads_than_cores_are_warned_of(threads: int, cores: float, state: str) -> None:
    check = doctor.threads_check(threads, cores)
    assert check.state == state
    if state == WARN:
        assert f"OMP_NUM_THREADS={max(1, int(cores))}" in check.remedy


def test_memory_is_what_the_control_group_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    free = doctor.available_memory()
    assert free is not None
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    for limit, left in ((f"{GIB}\n", GIB // 2), ("max\n", None)):
        (tmp_path / "memory.max").write_text(limit)
        found = doctor.available_memory()
        assert found == left if left else abs((found or 0) - free) < GIB


@pytest.mark.parametrize(("free", "state"), [(None, OK), (3 * GIB, OK), (GIB, WARN)])
def test_memory(free: int | None, state: str) -> None:
    assert doctor.memory_check(free).state == state


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert doctor.cache_check(tmp_path / "not" / "there" / "yet").state in (OK, WARN)
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(doctor, "MIN_CACHE", 2**62)
    assert doctor.cache_check(tmp_path).state == WARN
    assert doctor.cache_check(tmp_path / "file" / "below").state == FAIL


@pytest.mark.parametrize(
    ("token", "state"),
    [(None, OK), (TOKEN, OK), (TOKEN[:-1], FAIL), (f"{TOKEN}\n", FAIL), ("", FAIL)],
)
def test_token_is_judged_and_never_shown(token: str | None, state: str) -> None:
    check = doctor.token_check(token)
    assert check.state == state
    assert not token or token.strip() not in check.found + check.remedy


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.port_check(port).state == WARN
    assert doctor.port_check(port).state == OK


def test_a_table_has_a_line_a_check_and_its_remedy_below(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(doctor.as_table([Check("clock", OK, "right"), Check("port", FAIL, "taken", "free it")]))
    assert capsys.readouterr().out.splitlines() == [
        "ok    clock  right",
        "fail  port   taken",
        "             -> free it",
    ]


@pytest.mark.parametrize(("states", "ok"), [([OK, WARN], True), ([OK, FAIL], False), ([], True)])
def test_warnings_do_not_fail(states: list[str], ok: bool) -> None:
    document = doctor.as_document([Check("x", state, "found", "do") for state in states])
    assert document["ok"] is ok
    assert [check["state"] for check in document["checks"]] == states


class TestCommands:
    def test_doctor_as_json(self, ztp: Callable[..., Any], store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ZTP_TOKEN", raising=False)
        ran = ztp("doctor", "--json", "--storage", store.url)
        found = {check["name"]: check for check in json.loads(ran.out)["checks"]}
        assert {"python", "torch", "timm", "optuna", "sqlalchemy", "fvcore", "zero-tprune-search"} <= set(found)
        assert {"device", "threads", "memory", "database", "schema", "write speed", "clock", "cache"} <= set(found)
        assert ran.code == 0, ran.out

    def test_doctor_fails_with_1_when_the_database_is_gone(self, ztp: Callable[..., Any]) -> None:
        ran = ztp("doctor", "--storage", "postgresql://me:s3cr3t@127.0.0.1:1/db")
        assert (ran.code, ran.err) == (1, "")
        (line,) = [line for line in ran.out.splitlines() if " database " in line]
        assert line.startswith("fail")
        assert "s3cr3t" not in ran.out

    def test_upgrade_and_backup_say_what_they_did(self, ztp: Callable[..., Any]) -> None:
        assert "ours: no tables -> " in ztp("db", "upgrade").out
        assert "ours: " in ztp("db", "upgrade").out
        made = ztp("db", "backup", "copy.bak")
        assert "integrity check passed, 0 studies" in made.out
        assert Path("copy.bak").exists()
        again = ztp("db", "backup", "copy.bak")
        assert (again.code, "--force" in again.err) == (2, True)
        assert ztp("db", "backup", "copy.bak", "--force").code == 0
