"""Versions of the front, and how far a study is: what follows from its evaluations.

Invariants: a front version is never changed once written; the latest version is the front of all feasible evaluations
that are complete, by the accuracies they are chosen by (`Evaluation.chosen_by`) and their throughput; once a search has
ended, what is best by its FLOPs stands there, too. One that was stopped before the last image stands on no front: its
accuracy is of the images seen, and those on a front are never replaced (see `search.storage.evaluations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BindParameter, Connection, Double, Row, and_, bindparam, func, insert, literal, or_, select

from pruning.schedule import UNTOUCHED
from search.attribute_keys import FINALISTS_CLOCK
from search.config.field_types import parse_duration
from search.errors import InputError, StudyDeletedError
from search.storage import evaluations, leases, pareto
from search.storage.patience import count_stagnant
from search.storage.selection import Numbers, budget_bounds, fastest_worthwhile
from search.storage.tables import EVALUATION, FRONT, FRONT_POINT, STUDY
from search.types import NOT_TIMED, Evaluation, Front, Measurement, Progress, Throughput, to_record

DENSE_KEY = UNTOUCHED.key  # the same for every backbone
ACCURACY_BELOW_DENSE = 0.10  # the reference point: a point this far below the dense model is of no use
REFERENCE_SPEEDUP = 1.0
WORTHWHILE_SAVING = 0.02  # of FLOPs: what saves less beside the fastest of its accuracy is not confirmed for it


# What every trial's end asks is built once: building a statement costs as much as sending it.
_STUDY: BindParameter[int] = bindparam("study")
_LATEST = select(func.max(FRONT.c.version)).where(FRONT.c.study_id == _STUDY).scalar_subquery()
_STANDING = select(
    select(EVALUATION.c.accuracy)
    .where(EVALUATION.c.study_id == _STUDY, EVALUATION.c.schedule_key == bindparam("dense"))
    .where(EVALUATION.c.complete.is_(True))
    .scalar_subquery(),
    _LATEST,
)
_CHOSEN_BY = func.coalesce(EVALUATION.c.estimate, EVALUATION.c.accuracy)
_MEASURED = (EVALUATION.c.throughput, EVALUATION.c.speedup, EVALUATION.c.gflops)
_NUMBERS = (EVALUATION.c.id, _CHOSEN_BY.label("accuracy"), *_MEASURED)
_JUDGED = (  # correctness is not among them: a bit for each image
    *(EVALUATION.c.id, EVALUATION.c.accuracy, EVALUATION.c.speedup),
    *(EVALUATION.c.gflops, EVALUATION.c.confirm, EVALUATION.c.estimate, EVALUATION.c.confirm_estimate),
)
_OF_FRONT = (FRONT_POINT.c.evaluation_id == EVALUATION.c.id) & (FRONT_POINT.c.version == bindparam("version"))
_OF_FRONT &= FRONT_POINT.c.study_id == _STUDY
_MAY_STAND = (EVALUATION.c.study_id == _STUDY) & EVALUATION.c.feasible.is_(True) & EVALUATION.c.complete.is_(True)
_ALL = select(*_NUMBERS, FRONT_POINT.c.evaluation_id.label("stands")).where(_MAY_STAND)
_ALL = _ALL.select_from(EVALUATION.outerjoin(FRONT_POINT, _OF_FRONT))
_MEMBERS = select(*_NUMBERS, literal(1).label("stands")).join(FRONT_POINT, _OF_FRONT)
_NEW = select(*_NUMBERS, literal(0).label("stands")).where(_MAY_STAND, EVALUATION.c.schedule_key == bindparam("key"))
_CANDIDATES = _NEW.union_all(_MEMBERS)
_ACCURACY, _SPEED = bindparam("accuracy", type_=Double), bindparam("throughput", type_=Double)
_IS_BETTER = or_(
    and_(_CHOSEN_BY >= _ACCURACY, FRONT_POINT.c.throughput > _SPEED),
    and_(_CHOSEN_BY > _ACCURACY, FRONT_POINT.c.throughput >= _SPEED),
)
_BEATEN = select(FRONT_POINT.c.evaluation_id).join(EVALUATION, EVALUATION.c.id == FRONT_POINT.c.evaluation_id)
_BEATEN = _BEATEN.where(FRONT_POINT.c.study_id == _STUDY, FRONT_POINT.c.version == _LATEST)
_BEATEN = _BEATEN.where(_IS_BETTER).limit(1)


def may_change(connection: Connection, study_id: int, measurement: Measurement, feasible: bool) -> bool:
    """Whether a result that is to be kept may change the front. No needs no lock: what is beaten stays beaten.

    With the dense model's the first version comes into being, whatever it is made of.
    """
    if measurement.key == DENSE_KEY:
        return True
    if not (feasible and measurement.complete):
        return False
    named = {"accuracy": measurement.accuracy.value, "throughput": measurement.throughput.images_per_s}
    return connection.scalar(_BEATEN, {"study": study_id, **named}) is None


def update_front(
    connection: Connection, study_id: int, key: str | None = None, *, by_flops: bool = False
) -> int | None:
    """Write a new version if the front has other members than the last one; return its number.

    key: of the one schedule that was evaluated since the last version. It alone is compared with that version then:
    what is beaten stays beaten, and a trial's end costs the same early and late. None compares all.
    by_flops: what is best by FLOPs stands on it as well.

    None as long as the dense model is not evaluated completely: the reference point rests on it. The caller holds
    the study's lock.
    """
    reference, last = _standing(connection, study_id)
    if reference is None:
        return None
    named = {"study": study_id, "version": last, "key": key}
    query = _CANDIDATES if last and key is not None else _ALL
    rows = [tuple(row) for row in connection.execute(query, named)]
    known = {row[0] for row in rows if row[5]}
    # a schedule that stands on the front is there twice if it was evaluated again
    table = np.asarray(sorted({row[:5] for row in rows}), dtype=float).reshape(-1, 5)
    members = table[pareto.front(table[:, 1], table[:, 2])]
    if by_flops:
        members = np.concatenate((members, _cheaper(table[pareto.front(table[:, 1], -table[:, 4])], members)))
    ids = [int(member) for member in members[:, 0]]
    if set(ids) == known:
        return None
    version = last + 1
    values = {
        "study_id": study_id,
        "version": version,
        "trials": leases.count_ended(connection, study_id)[0],
        "hypervolume": pareto.hypervolume(members[:, [1, 3]], reference),
        "reference_accuracy": reference[0],
        "reference_speedup": reference[1],
        "created_at": evaluations.utc_now(),
    }
    connection.execute(insert(FRONT).values(values))
    _copy_points(connection, study_id, version, ids)
    return version


def _cheaper(candidates: NDArray[np.float64], members: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rows as of `_NUMBERS` those that are clearly cheaper than every member as accurate as they are."""
    as_accurate = members[None, :, 1] >= candidates[:, None, 1]
    enough = members[None, :, 4] <= candidates[:, None, 4] * (1 + WORTHWHILE_SAVING)
    found: NDArray[np.float64] = candidates[~(as_accurate & enough).any(axis=1)]
    return found


def _standing(connection: Connection, study_id: int) -> tuple[tuple[float, float] | None, int]:
    """The reference point, None before the dense model is measured, and the latest version, 0 if there is none."""
    accuracy, version = connection.execute(_STANDING, {"study": study_id, "dense": DENSE_KEY}).one()
    return None if accuracy is None else (accuracy - ACCURACY_BELOW_DENSE, REFERENCE_SPEEDUP), version or 0


def _copy_points(connection: Connection, study_id: int, version: int, ids: Sequence[int]) -> None:
    """A version's points repeat their numbers, so that one SELECT shows a front and nothing later changes it."""
    shared = ("trial", "accuracy", "throughput", "gflops", "schedule")
    columns = (literal(study_id), literal(version), EVALUATION.c.id, *(EVALUATION.c[name] for name in shared))
    points = select(*columns).where(EVALUATION.c.id.in_(ids))
    names = ("study_id", "version", "evaluation_id", *shared)
    connection.execute(insert(FRONT_POINT).from_select(names, points))


def latest_version(connection: Connection, study_id: int) -> int:
    """Number of the latest front version; 0 if there is none."""
    return connection.scalar(select(func.max(FRONT.c.version)).where(FRONT.c.study_id == study_id)) or 0


def read_front(connection: Connection, study_id: int, version: int | None = None) -> Front | None:
    """A version of the front, the latest by default; None if there is none at all. Raises InputError."""
    latest = latest_version(connection, study_id)
    if not latest:
        return None
    wanted = latest if version is None else version
    query = select(FRONT).where(FRONT.c.study_id == study_id, FRONT.c.version == wanted)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise InputError("front version", f"must be in 1..{latest}", wanted)
    return Front(
        version=row.version,
        trials=row.trials,
        created_at=row.created_at,
        hypervolume=row.hypervolume,
        reference=(row.reference_accuracy, row.reference_speedup),
        points=tuple(evaluations.to_evaluation(row) for row in connection.execute(point_rows(study_id, wanted))),
        dense=evaluations.find(connection, study_id, DENSE_KEY),
    )


def read_history(connection: Connection, study_id: int) -> list[tuple[int, int, str, float]]:
    """(version, trials, created_at, hypervolume) of every version, oldest first."""
    columns = (FRONT.c.version, FRONT.c.trials, FRONT.c.created_at, FRONT.c.hypervolume)
    query = select(*columns).where(FRONT.c.study_id == study_id).order_by(FRONT.c.version)
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def point_rows(study_id: int, version: int) -> Any:
    """Query for the evaluations on a front version, sorted by throughput, slowest first."""
    return (
        select(EVALUATION)
        .join(FRONT_POINT, FRONT_POINT.c.evaluation_id == EVALUATION.c.id)
        .where(FRONT_POINT.c.study_id == study_id, FRONT_POINT.c.version == version)
        .order_by(EVALUATION.c.throughput)
    )


def read_progress(connection: Connection, study_id: int) -> Progress:
    """How far a study is, from the latest front version and counts; cheap enough to be asked every second."""
    study = connection.execute(select(STUDY).where(STUDY.c.id == study_id)).one_or_none()
    if study is None:
        raise StudyDeletedError(study_id)
    version = latest_version(connection, study_id)
    head = select(FRONT.c.hypervolume).where(FRONT.c.study_id == study_id, FRONT.c.version == version)
    points = connection.execute(point_rows(study_id, version).with_only_columns(*_JUDGED)).all()
    stopped, images, images_whole = _seen(connection, study_id)
    measured, failed = leases.count_ended(connection, study_id)
    patience, clock = study.spec["budget"].get("patience"), study.provenance.get(FINALISTS_CLOCK, {})
    return Progress(
        state=study.state,
        done=measured + failed,
        total=study.spec["budget"]["trials"],
        limit_s=parse_duration(study.spec["budget"].get("time")),
        seconds=study.seconds,
        front_size=len(points),
        hypervolume=connection.scalar(head) or 0.0,
        best=_best(connection, study, points),
        confirmed=sum(
            row.confirm is not None and row.confirm["throughput"].get("disturbed") != NOT_TIMED for row in points
        ),
        note=study.note,
        stopped=stopped,
        images=images,
        images_whole=images_whole,
        failed=failed,
        running=leases.list_running(connection, study_id),
        patience=patience,
        stagnant=0 if patience is None else count_stagnant(connection, study_id, measured),
        clock_s=clock.get("seconds", 0.0),
        clock_limit_s=clock.get("limit_s"),
        abandoned_s=leases.abandoned_s(connection, study_id, study.state),
    )


def _best(connection: Connection, study: Row[Any], points: Sequence[Row[Any]]) -> Evaluation | None:
    """The `fastest_worthwhile` of points of the front; its row alone is read as a whole."""
    query = select(*_JUDGED).where(EVALUATION.c.study_id == study.id, EVALUATION.c.schedule_key == DENSE_KEY)
    dense = connection.execute(query).one_or_none()
    bounds = budget_bounds(study.spec["budget"], None if dense is None else _numbers(dense))
    are_estimated = any(row.confirm_estimate is not None for row in points)
    best = fastest_worthwhile({row.id: _numbers(row, are_estimated) for row in points}, bounds)
    if best is None:
        return None
    row = connection.execute(select(EVALUATION).where(EVALUATION.c.id == best)).one_or_none()  # None: just deleted
    return None if row is None else evaluations.to_evaluation(row)


def _numbers(row: Any, is_estimated: bool = False) -> Numbers:
    """As `worthwhile.front_numbers` has them, from a row."""
    confirm, estimate = row.confirm, None
    if is_estimated:
        estimate = next(v for v in (row.confirm_estimate, row.estimate, row.accuracy) if v is not None)
    if confirm is None:
        return Numbers(row.accuracy, row.speedup, row.gflops, estimate)
    speed = to_record(Throughput, confirm["throughput"])
    accuracy, gflops = confirm["accuracy"]["value"], confirm["flops"] / 1e9
    return Numbers(accuracy, speed.speedup, gflops, estimate, speed.latencies)


def _seen(connection: Connection, study_id: int) -> tuple[int, int, int]:
    """How many evaluations were stopped, how many images all of them saw, and would have seen had none been stopped.

    Read from an index alone. The dense model is never stopped, so the most images of any are those of the split.
    """
    query = (
        select(EVALUATION.c.complete, func.count(), func.sum(EVALUATION.c.images), func.max(EVALUATION.c.images))
        .where(EVALUATION.c.study_id == study_id)
        .group_by(EVALUATION.c.complete)
    )
    rows = [tuple(row) for row in connection.execute(query)]
    stopped = sum(count for complete, count, *_ in rows if not complete)
    whole = sum(count for _, count, *_ in rows) * max((most for *_, most in rows), default=0)
    return stopped, sum(int(images) for _, _, images, _ in rows), whole
