"""What happens to studies, as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from search.errors import SearchError, UnknownStudyError
from search.server.errors import Responses, check_parameters, documented, shown
from search.server.serialization import Document
from search.server.studies import API, DENIED, Study
from search.storage.changes import Mark
from search.storage.store import Store
from search.types import HELD_STATES, Progress, to_document

LOOK_EVERY_S = 1.0
FORGET_S = 5.0  # nobody has asked for a study so long: its streams have ended
PING_EVERY_S = 15.0  # proxies close what is silent
LONGEST_S = 24 * 3600.0
ENDED = ("done", *HELD_STATES)
EXAMPLE = """event: progress
data: {"study": "shirts", "progress": {"state": "running", "done": 3, "total": 40}}

event: front
data: {"study": "shirts", "version": 2, "hypervolume": 0.0498, "points": 3}

event: end
data: {"study": "shirts", "state": "done"}
"""
STREAM: Responses = {200: shown(EXAMPLE, "text/event-stream")}
FOR_SECONDS = "end the stream after so many seconds; 0: after what is known now"
Seconds = Annotated[float, Query(ge=0, le=LONGEST_S, description=FOR_SECONDS, examples=[60.0])]
Event = tuple[str, Document]
Snapshot = dict[str, tuple[Progress, int]]  # by study: how far it is, and the version of its front

router = APIRouter(prefix=API, tags=["events"], dependencies=[Depends(check_parameters)])


class StudyReader:
    """Reads for all streams together: the database is asked once a second, however many listen and to however many
    studies; of these, only those that may have changed are read as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._known: dict[str, tuple[Mark, Progress, int]] = {}
        self._asked: dict[str | None, float] = {}  # when each of those that are watched was last asked for
        self._read: dict[str | None, tuple[float, Snapshot]] = {}

    async def read(self, name: str | None, max_age_s: float) -> Snapshot:
        """How the study stands, or with None every study; empty without any. Raises SearchError."""
        self._asked[name] = asked_at = time.monotonic()  # who reads next does it for all that wait
        async with self._lock:
            read_at, snapshot = self._read.get(name, (float("-inf"), {}))
            now = time.monotonic()
            if read_at < asked_at and now - read_at >= max_age_s:
                self._asked = {each: at for each, at in self._asked.items() if now - at < FORGET_S} | {name: asked_at}
                snapshots = await run_in_threadpool(self._look, [*self._asked])
                self._read = {each: (now, found) for each, found in snapshots.items()}
                snapshot = snapshots[name]
            return snapshot

    def _look(self, watched: list[str | None]) -> dict[str | None, Snapshot]:
        marks = self._store.marks()
        wanted = marks if None in watched else {name: marks[name] for name in watched if name in marks}
        known: dict[str, tuple[Mark, Progress, int]] = {}
        for name, mark in wanted.items():
            before = self._known.get(name)
            with suppress(UnknownStudyError):  # deleted meanwhile
                known[name] = before if before and before[0] == mark else self._read_whole(mark, before)
        self._known = known
        every = {name: (progress, version) for name, (_, progress, version) in known.items()}
        return {
            name: every if name is None else {each: every[each] for each in every if each == name} for name in watched
        }

    def _read_whole(self, mark: Mark, before: tuple[Mark, Progress, int] | None) -> tuple[Mark, Progress, int]:
        progress = self._store.progress(mark.study_id)
        if before and before[0].study_id == mark.study_id and before[1].hypervolume == progress.hypervolume:
            return mark, progress, before[2]
        return mark, progress, len(self._store.front_history(mark.study_id))


@router.get(
    "/studies/{name}/events",
    response_class=EventSourceResponse,
    responses=STREAM | DENIED | documented(404, 422, 503),
)
async def study_events(study: Study, request: Request, timeout_s: Seconds = 3600.0) -> AsyncIterator[ServerSentEvent]:
    """`progress` after every trial, `front` with every version; `end` when it is done, paused or stopped.

    The first events tell how things stand.
    """
    async for event in _follow(request, timeout_s, study.name):
        yield event


@router.get("/events", response_class=EventSourceResponse, responses=STREAM | DENIED | documented(422, 503))
async def all_events(request: Request, timeout_s: Seconds = 3600.0) -> AsyncIterator[ServerSentEvent]:
    """The same for every study, new ones included; `removed` when one is deleted. It ends with `timeout_s` alone."""
    async for event in _follow(request, timeout_s, None):
        yield event


async def _follow(request: Request, timeout_s: float, name: str | None) -> AsyncIterator[ServerSentEvent]:
    reader: StudyReader = request.app.state.reader
    closing: asyncio.Event = request.app.state.closing
    last = time.monotonic()
    deadline, known, max_age_s = last + timeout_s, Snapshot(), 0.0
    while True:
        try:
            snapshot = await reader.read(name, max_age_s)
        except SearchError as error:  # the answer has begun: all that is left is to say why it ends
            yield _event("error", {"message": str(error)})
            return
        news, known, max_age_s = list(_compare(known, snapshot, name)), snapshot, LOOK_EVERY_S
        for kind, data in news:
            yield _event(kind, data)
        if any(kind == "end" for kind, _ in news) or time.monotonic() >= deadline:
            return
        if news or time.monotonic() - last > PING_EVERY_S:
            last = time.monotonic()
            yield ServerSentEvent(comment="alive")
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), min(LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))
            return


def _event(kind: str, data: Document) -> ServerSentEvent:
    return ServerSentEvent(event=kind, raw_data=json.dumps(data))


def _compare(known: Snapshot, snapshot: Snapshot, name: str | None) -> Iterator[Event]:
    """What changed since `known`. name: of the study that is followed, None for all."""
    for study, (progress, version) in snapshot.items():
        before, _ = known.get(study, (None, 0))
        if before == progress:
            continue
        yield "progress", {"study": study, "progress": to_document(progress)}
        if progress.front_size and (before is None or before.hypervolume != progress.hypervolume):
            front = {"version": version, "hypervolume": progress.hypervolume, "points": progress.front_size}
            yield "front", {"study": study, **front}
        if name is not None and progress.state in ENDED:
            yield "end", {"study": study, "state": progress.state}
    for study in known.keys() - snapshot.keys():
        yield "removed", {"study": study}
    if name is not None and not snapshot:
        yield "end", {"study": name, "state": "removed"}
