"""For how many trials a study's front has not grown: by which `budget.patience` ends a search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from search.attribute_keys import CHOSEN
from search.storage.tables import EVALUATION, FRONT, FRONT_POINT, STUDY

Point = tuple[float, float, int]  # speed-up, accuracy, images


def count_stagnant(connection: Connection, study_id: int, measured: int) -> int:
    """Trials since the front's hypervolume last grew by more than its noise; 0 before there is a front.

    measured: how many trials were, as the versions of the front count them.
    """
    columns = (FRONT.c.version, FRONT.c.trials, FRONT.c.hypervolume)
    history = connection.execute(select(*columns).where(FRONT.c.study_id == study_id).order_by(FRONT.c.version)).all()
    if not history:
        return 0
    noise = noise_of(_points(connection, study_id))
    chosen = set(list_chosen(connection, study_id))
    _, grown, hypervolume = history[0]
    for version, trials, now in history[1:]:
        if version in chosen:  # other numbers for the same trials: what follows is compared with these
            hypervolume = now
        elif now - hypervolume > noise:
            grown, hypervolume = trials, now
    return max(0, measured - int(grown))


def list_chosen(connection: Connection, study_id: int) -> list[int]:
    """Versions of the front that were chosen by estimates, when the search had ended."""
    known = connection.scalar(select(STUDY.c.provenance).where(STUDY.c.id == study_id)) or {}
    return list(known.get(CHOSEN, []))


def noise_of(points: Sequence[Point]) -> float:
    """Standard error of a front's hypervolume, of accuracies that were counted on so many images.

    The area is a sum of accuracies, each times the speed-up that its point adds to the next slower one, so its variance
    is the sum of theirs times the squares of those. Accuracies have the variance of a share, by Agresti and Coull's
    estimate, which does not vanish where all answers are right.
    """
    total, slower = 0.0, 1.0  # the untouched model's speed, from which the hypervolume is measured
    for speedup, accuracy, images in sorted(points):
        share = (accuracy * images + 2) / (images + 4)
        width = max(0.0, speedup - slower)
        total += width**2 * share * (1 - share) / (images + 4)
        slower = max(slower, speedup)
    return math.sqrt(total)


def _points(connection: Connection, study_id: int) -> list[Point]:
    """Of the latest version of the front."""
    latest = select(func.max(FRONT.c.version)).where(FRONT.c.study_id == study_id).scalar_subquery()
    query = (
        select(EVALUATION.c.speedup, EVALUATION.c.accuracy, EVALUATION.c.images)
        .join(FRONT_POINT, FRONT_POINT.c.evaluation_id == EVALUATION.c.id)
        .where(FRONT_POINT.c.study_id == study_id, FRONT_POINT.c.version == latest)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]
