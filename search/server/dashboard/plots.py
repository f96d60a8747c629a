"""The dashboard's artifact store: pictures of fronts and of surviving patches, drawn when somebody looks at them.

Nothing is stored: a study that runs is drawn as it is now. Patches need the backbone and the images; where this machine
does not have them, the picture says so.
"""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pruning.errors import PruningError
from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import export, formatting
from search.reporting.plots import canvas, front_plot
from search.storage.store import Store
from search.types import Front

PATCH_IMAGES = 4
KEPT = 64  # sheets in memory, of 30 to 300 kB each


class ReadOnlyError(RuntimeError):
    """Somebody tried to write through the dashboard."""


def front_id(study: StudyRecord, front: Front) -> str:
    """Of a front's plot: a new picture has a new name, for browsers keep pictures by name."""
    confirmed = sum(point.confirm is not None for point in front.points)
    return f"{study.id:08x}-{front.version:08x}-{confirmed:04x}"


def patches_id(study: StudyRecord, trial: int) -> str:
    """Of the sheet of surviving patches under a trial's schedule."""
    return f"{study.id:08x}-{trial:08x}"


def refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise ReadOnlyError("the dashboard shows studies and never changes them; use ztp launch")


class FrontPictures:
    """Implements Optuna's artifact protocol over a store. Writing raises ReadOnlyError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sheet = lru_cache(maxsize=KEPT)(self._draw_sheet)
        self._drawing = threading.Lock()  # one model at a time: a page may ask for several sheets at once

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """PNG of an id of `front_id` or `patches_id`. Raises KeyError for another."""
        study_id, number, *more = (int(part, 16) for part in artifact_id.split("-"))
        study = self._study(study_id)
        if not more:
            with self._drawing:
                return io.BytesIO(self._sheet(study_id, number))
        front = self._store.front(study.id, number)
        assert front is not None  # the id was made from a version, and versions are never removed
        return io.BytesIO(canvas.png(front_plot.picture(study, front, self._store.evaluations(study.id))))

    def _study(self, study_id: int) -> StudyRecord:
        return {study.id: study for study in self._store.studies()}[study_id]

    def _draw_sheet(self, study_id: int, trial: int) -> bytes:
        from search.evaluation.token_trace import anatomies  # late: torch, for seconds, and only if somebody looks
        from search.reporting.plots import patches_plot

        study, found = self._study(study_id), self._store.evaluation_of_trial(study_id, trial)
        if found is None:
            raise KeyError(trial)
        title = f"{study.name}, trial {trial}: {formatting.stages(found.search.schedule, named=True)}"
        try:
            count = min(PATCH_IMAGES, study.spec.data.search_images)
            return patches_plot.png(anatomies(export.to_config(study, found), Path(study.name), count=count), title)
        except (InputError, PruningError) as error:
            return patches_plot.message_png(title, f"The patches cannot be drawn on this machine. {error}")

    write = remove = refuse
