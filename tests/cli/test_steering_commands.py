"""pause, resume, stop, rename and delete by the command line, at a store and at a server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.config.spec import make_spec
from search.storage.store import Store
from tests.serving import TOKEN, start_service

Ztp = Callable[..., Any]


@pytest.fixture(params=["store", "server"])
def where(request: pytest.FixtureRequest, store: Store, tmp_path: Path, monkeypatch: Any) -> Iterator[list[str]]:
    """Flags of a command, for a store with the studies "shirts", which is done, and "socks", which waits."""
    store.add_study(make_spec({"name": "socks", "backbone": {"name": "demo"}}, "test"))
    if request.param == "store":
        yield ["--storage", store.url]
        return
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    service = start_service(tmp_path, store.url, "--workers", 0, token=TOKEN)
    yield ["--server", service.address]
    assert service.end() == 0


def test_a_study_is_steered(ztp: Ztp, store: Store, where: list[str]) -> None:
    for order, said, state in (
        ("pause", "socks: paused; trials under way are finished; next: ztp resume socks", "paused"),
        ("resume", "socks: waits for a worker: launch it again, or start ztp worker or ztp serve", "created"),
        ("stop", "socks: stopped; what was found stays; ztp resume socks, or its launch, continues it", "stopped"),
    ):
        ran = ztp(order, "socks", *where)
        assert (ran.code, ran.out, ran.err) == (0, f"{said}\n", "")
        assert store.study("socks").state == state

    ran = ztp("rename", "socks", "hats", *where)
    assert (ran.code, ran.out, ran.err) == (0, "socks: is hats now\n", "")
    taken = ztp("rename", "hats", "shirts", *where)
    assert (taken.code, "study shirts exists" in taken.err) == (2, True)
    wrong = ztp("rename", "hats", "a/b", *where)
    assert (wrong.code, "rename hats: name must" in wrong.err) == (2, True)

    refused = ztp("pause", "shirts", *where)
    assert (refused.code, refused.out) == (2, "")
    assert "shirts: state must be created or running or confirming to become paused, got done" in refused.err
    unknown = ztp("stop", "hat", *where)
    assert (unknown.code, "did you mean hats?" in unknown.err) == (2, True)


def test_deletion_asks_and_refuses_what_is_at_work(
    ztp: Ztp, store: Store, where: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = store.trials.reserve(store.study("socks").id, "a worker")
    assert slot is not None
    busy = ztp("delete", "socks", "--yes", *where)
    assert (busy.code, "socks: must not be at work, got created, a worker; stop it" in busy.err) == (2, True)
    store.tasks.free(slot)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    asked = ztp("delete", "socks", *where)
    assert (asked.code, "for good? [y/N]" in asked.err) == (1, True)
    assert store.study("socks").state == "created"
    ran = ztp("delete", "socks", "--yes", "--force", *where)
    assert (ran.code, ran.out) == (0, "socks: deleted\n")
    assert [study.name for study in store.studies()] == ["shirts"]
