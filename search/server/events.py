"""What happens to studies, as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from search.errors import SearchError
from search.server.errors import documented
from search.server.query_params import check_parameters
from search.server.serialization import Document, progress_document
from search.server.studies import API, DENIED, Reading, Study
from search.storage.store import Store
from search.types import HELD_STATES

LOOK_EVERY_S = 1.0
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
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"example": EXAMPLE}}}}
Seconds = Annotated[
    float,
    Query(
        ge=0,
        le=LONGEST_S,
        description="end the stream after so many seconds; 0: after what is known now",
        examples=[60.0],
    ),
]
Event = tuple[str, Document]

router = APIRouter(prefix=API, tags=["events"], dependencies=[Depends(check_parameters)])


@router.get(
    "/studies/{name}/events",
    response_class=EventSourceResponse,
    responses=STREAM | DENIED | documented(404, 422, 503),
)
async def study_events(
    study: Study, store: Reading, request: Request, timeout_s: Seconds = 3600.0
) -> AsyncIterator[ServerSentEvent]:
    """`progress` after every trial, `front` with every version; `end` when it is done, paused or stopped.

    The first events tell how things stand.
    """
    async for event in _follow(store, request, timeout_s, study.name):
        yield event


@router.get("/events", response_class=EventSourceResponse, responses=STREAM | DENIED | documented(422, 503))
async def all_events(store: Reading, request: Request, timeout_s: Seconds = 3600.0) -> AsyncIterator[ServerSentEvent]:
    """The same for every study, new ones included; `removed` when one is deleted. It ends with `timeout_s` alone."""
    async for event in _follow(store, request, timeout_s, None):
        yield event


async def _follow(store: Store, request: Request, timeout_s: float, name: str | None) -> AsyncIterator[ServerSentEvent]:
    closing: asyncio.Event = request.app.state.closing
    deadline, known, last = time.monotonic() + timeout_s, dict[str, Event](), time.monotonic()
    while True:
        try:
            news, known = await run_in_threadpool(_look, store, name, known)
        except SearchError as error:  # the answer has begun: all that is left is to say why it ends
            yield _event("error", {"message": str(error)})
            return
        for kind, data in news:
            yield _event(kind, data)
        if any(kind == "end" for kind, _ in news) or time.monotonic() >= deadline:
            return
        if news or time.monotonic() - last > PING_EVERY_S:
            last = time.monotonic()
            yield ServerSentEvent(comment="alive")
        if await _closes(closing, min(LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))):
            return


async def _closes(closing: asyncio.Event, wait_s: float) -> bool:
    """Wait, but no longer than until the server closes; whether it does."""
    try:
        await asyncio.wait_for(closing.wait(), wait_s)
    except TimeoutError:
        return False
    return True


def _event(kind: str, data: Document) -> ServerSentEvent:
    return ServerSentEvent(event=kind, raw_data=json.dumps(data))


def _look(store: Store, name: str | None, known: dict[str, Event]) -> tuple[list[Event], dict[str, Any]]:
    """What changed since `known`, and what is known now."""
    news: list[Event] = []
    now: dict[str, Any] = {}
    for study in store.studies():
        if name not in (None, study.name):
            continue
        progress = store.progress(study.id)
        now[study.name] = progress
        before: Any = known.get(study.name)
        if before == progress:
            continue
        news.append(("progress", {"study": study.name, "progress": progress_document(progress)}))
        if progress.front_size and (before is None or before.hypervolume != progress.hypervolume):
            version = len(store.front_history(study.id))
            front = {"version": version, "hypervolume": progress.hypervolume, "points": progress.front_size}
            news.append(("front", {"study": study.name, **front}))
        if name is not None and progress.state in ENDED:
            news.append(("end", {"study": study.name, "state": progress.state}))
    gone: list[Event] = [("removed", {"study": each}) for each in known if each not in now]
    end: list[Event] = [("end", {"study": name, "state": "removed"})] if name is not None and not now else []
    return [*news, *gone, *end], now
