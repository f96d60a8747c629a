"""What event streams read and tell; `test_running.py` follows real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from search.config.spec import make_spec
from search.server.events import StudyReader, _compare
from search.storage.store import Store
from search.types import Progress


@pytest.fixture
def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that the database is asked."""
    marks, asked = store.marks, list[None]()

    def counted() -> Any:
        asked.append(None)
        return marks()

    monkeypatch.setattr(store, "marks", counted)
    return asked


@pytest.mark.parametrize("name", ["shirts", None])
def test_many_listeners_read_once(store: Store, reads: list[None], name: str | None) -> None:
    async def listen() -> Any:
        reader = StudyReader(store)
        return await asyncio.gather(*(reader.read(name, 60.0) for _ in range(50)))

    snapshots = asyncio.run(listen())
    assert len(reads) == 1
    assert all(snapshot is snapshots[0] for snapshot in snapshots)
    progress, version = snapshots[0]["shirts"]
    assert (progress, version) == (store.progress(1), len(store.front_history(1)))


def test_listeners_of_many_studies_read_together_what_has_changed(
    store: Store, reads: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"study-{number}" for number in range(12)]
    for name in names:
        store.add_study(make_spec({"name": name, "backbone": {"name": "demo"}}, "test"))
    progress, whole = store.progress, list[int]()

    def counted(study_id: int) -> Progress:
        whole.append(study_id)
        return progress(study_id)

    monkeypatch.setattr(store, "progress", counted)

    async def listen() -> list[Any]:
        reader = StudyReader(store)
        for name in names:
            await reader.read(name, 0.0)
        whole.clear()
        reads.clear()
        changed = store.study(names[7]).id
        assert store.trials.reserve(changed, "a worker", 9) is not None
        first = await reader.read(names[0], 0.0)
        assert whole == [changed]
        return [first, *[await reader.read(name, 60.0) for name in names[1:]]]

    snapshots = asyncio.run(listen())
    assert len(reads) == 1
    assert [list(snapshot) for snapshot in snapshots] == [[name] for name in names]
    for name, snapshot in zip(names, snapshots, strict=True):
        assert snapshot[name][0] == progress(store.study(name).id)


def test_who_begins_to_listen_learns_how_things_stand_now(store: Store, reads: list[None]) -> None:
    async def listen() -> Any:
        reader = StudyReader(store)
        before = await reader.read(None, 0.0)
        store.add_study(make_spec({"name": "new", "backbone": {"name": "demo"}}, "test"))
        return before, await reader.read(None, 60.0), await reader.read(None, 0.0), await reader.read("new", 60.0)

    before, kept, now, new = asyncio.run(listen())
    assert (set(before), set(kept), set(now), set(new)) == ({"shirts"}, {"shirts"}, {"shirts", "new"}, {"new"})
    assert len(reads) == 3


def test_only_what_changed_is_told(progress: Callable[..., Progress]) -> None:
    first = progress(state="running")
    more = replace(first, done=first.done + 1)
    better = replace(more, hypervolume=more.hypervolume + 0.01)

    def kinds(before: Any, now: Any, name: str | None = None) -> list[str]:
        return [kind for kind, _ in _compare(before, now, name)]

    assert kinds({}, {"a": (first, 1)}) == ["progress", "front"]
    assert kinds({"a": (first, 1)}, {"a": (first, 1)}) == []
    assert kinds({"a": (first, 1)}, {"a": (more, 1)}) == ["progress"]
    assert kinds({"a": (more, 1)}, {"a": (better, 2), "b": (first, 1)}) == ["progress", "front", "progress", "front"]
    assert kinds({"a": (more, 1)}, {}) == ["removed"]
    assert kinds({"a": (more, 1)}, {}, "a") == ["removed", "end"]
    ended = replace(more, state="done")
    assert kinds({"a": (more, 1)}, {"a": (ended, 1)}) == ["progress"]
    assert kinds({"a": (more, 1)}, {"a": (ended, 1)}, "a") == ["progress", "end"]
