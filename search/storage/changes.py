"""Which studies may stand otherwise than a moment ago: asked of all at once, before any is read as a whole."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, cast, func, select

from search.storage.leases import RESERVED
from search.storage.tables import FRONT, SLOT, STUDY
from search.types import AT_WORK_STATES

SILENCE_S = 10.0  # so often a study at work is taken as changed: that its workers have died is written nowhere


@dataclass(frozen=True)
class Mark:
    """Equal marks of a study mean equal progress. version: of its front, None if it has none."""

    study_id: int
    version: int | None
    row: tuple[Any, ...]
    tasks: tuple[Any, ...]


def read_marks(connection: Connection) -> dict[str, Mark]:
    """Of every study, by name, oldest first; a few statements, however many there are.

    All that `fronts.read_progress` tells is in the study's row, or is written together with a task or the front.
    """
    newest = select(FRONT.c.study_id, func.max(FRONT.c.version)).group_by(FRONT.c.study_id)
    versions = {row[0]: row[1] for row in connection.execute(newest)}
    tasks: dict[int, list[Any]] = defaultdict(list)
    of_kind = (SLOT.c.study_id, SLOT.c.state, SLOT.c.kind)
    held = select(SLOT.c.study_id, SLOT.c.trial).where(SLOT.c.state == RESERVED)
    for query in (select(*of_kind, func.count()).group_by(*of_kind).order_by(*of_kind), held.order_by(SLOT.c.id)):
        for study_id, *task in connection.execute(query):
            tasks[study_id].append(tuple(task))
    spec = cast(STUDY.c.spec, Text)  # compared, not read
    rows = select(STUDY.c.id, STUDY.c.name, STUDY.c.state, STUDY.c.note, STUDY.c.seconds, spec).order_by(STUDY.c.id)
    marks = {}
    for study_id, name, state, *row in connection.execute(rows):
        since = int(time.monotonic() / SILENCE_S) if state in AT_WORK_STATES else 0
        marks[name] = Mark(study_id, versions.get(study_id), (state, since, *row), tuple(tasks[study_id]))
    return marks
