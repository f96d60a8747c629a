"""Studies as rows: their spec, state, origin, and the evaluation time they used."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, insert, select, update

from search.attribute_keys import ERROR, FINALISTS_CLOCK, LOGGED
from search.config.continuation import check_same, continued_spec
from search.config.spec import StudyRecord, StudySpec
from search.errors import InputError, SpecConflictError, StudyDeletedError, UnknownStudyError
from search.storage import clock, fronts, leases
from search.storage.clock import CLOCK
from search.storage.compatibility import newer_writer, warn_of_newer_writer
from search.storage.evaluations import utc_now
from search.storage.tables import ATTEMPT, EVALUATION, FRONT, FRONT_POINT, SLOT, STUDY, TRIAL
from search.types import PREPARE, SEARCH_STATES, STUDY_STATES

MAX_MISSED = 10.0  # looks, after which nobody was there
MIRROR_LEASE_S = 30.0  # of who changes Optuna's study ...
MIRROR_PAUSE_S = 0.2  # ... for whom others wait so long between two looks

CONTINUED = {"done": "created", "confirming": "running"}  # the state of a study whose budget was raised


def find_or_add(
    connection: Connection, spec: StudySpec, place: str, taken: bool, known: Mapping[str, Any] | None = None
) -> tuple[StudyRecord, bool]:
    """The study of this name, made if there is none, and with the budget raised if the spec asks for more; whether it
    was made.

    Raises SpecConflictError for another spec, or if Optuna has a study of this name that is not ours.

    place: "at URL", the database as error messages name it. taken: whether Optuna had a study of this name before.
    known: the provenance of a new study.
    """
    row = _find(connection, spec.name)
    is_new = row is None
    if row is None:
        if taken:
            rule = f"study {spec.name}: an Optuna study of this name exists {place} that was not launched by ztp"
            raise SpecConflictError("", rule, remedy="choose another name")
        values = {"state": "created", "note": "", "provenance": dict(known or {}), "seconds": 0.0}
        values |= {"name": spec.name, "spec": spec.to_dict(), "created_at": utc_now()}
        connection.execute(insert(STUDY).values(values))
    else:
        _continue(connection, row, spec, place)
    row = _find(connection, spec.name)
    assert row is not None
    if is_new:
        leases.queue(connection, row.id, PREPARE)
    return _to_study(row), is_new


def _continue(connection: Connection, row: Row[Any], spec: StudySpec, place: str) -> None:
    """Take over what may change. A study whose budget then has something left is to be searched again."""
    study = _to_study(row)
    check_same(study.spec, spec, place)
    if continued_spec(study.spec, spec) == study.spec:
        return
    leases.lock_study(connection, row.id)
    row = connection.execute(select(STUDY).where(STUDY.c.id == row.id)).one()  # another may have raised it just now
    wanted = continued_spec(_to_study(row).spec, spec)
    changed = update(STUDY).where(STUDY.c.id == row.id)
    connection.execute(changed.values(spec=wanted.to_dict()))
    if row.state in CONTINUED and not fronts.read_progress(connection, row.id).is_spent:
        connection.execute(changed.values(state=CONTINUED[row.state], note="its budget was raised"))


def get(connection: Connection, name: str, place: str) -> StudyRecord:
    """Look a study up by name. Raises UnknownStudyError listing near or known names."""
    row = _find(connection, name)
    if row is not None:
        return _to_study(row)
    known = list(connection.scalars(select(STUDY.c.name).order_by(STUDY.c.id)))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known[-10:]) or 'none; launch one first'}"
    raise UnknownStudyError("", f"study must be one {place}", repr(name), hint)


def find_all(connection: Connection) -> list[StudyRecord]:
    """All studies, oldest first."""
    return [_to_study(row) for row in connection.execute(select(STUDY).order_by(STUDY.c.id))]


def set_state(
    connection: Connection,
    study_id: int,
    state: str,
    note: str,
    sources: Collection[str],
    error: InputError | None = None,
) -> bool:
    """Change the state if it is one of `sources`; whether it was. error: why, kept in the provenance until the next."""
    if state not in STUDY_STATES:
        raise ValueError(f"state must be one of {', '.join(STUDY_STATES)}, got {state!r}")
    known = (STUDY.c.id == study_id) & STUDY.c.state.in_(sources)
    changed = connection.execute(update(STUDY).where(known).values(state=state, note=note)).rowcount > 0
    if changed:
        merge_provenance(connection, study_id, {ERROR: error.to_dict()} if error else {})
    return changed


def get_of_id(connection: Connection, study_id: int) -> StudyRecord:
    """Raises StudyDeletedError."""
    row = connection.execute(select(STUDY).where(STUDY.c.id == study_id)).one_or_none()
    if row is None:
        raise StudyDeletedError(study_id)
    return _to_study(row)


def rename(connection: Connection, study_id: int, name: str) -> None:
    """Raises StudyDeletedError, and the database's IntegrityError for a name that is taken."""
    spec = {**get_of_id(connection, study_id).document, "name": name}
    connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(name=name, spec=spec))


def remove(connection: Connection, study_id: int) -> None:
    """Every row of a study, those that point to others first, in the order in which results are added."""
    for table in (FRONT_POINT, FRONT, ATTEMPT, EVALUATION, SLOT, TRIAL):
        connection.execute(delete(table).where(table.c.study_id == study_id))
    connection.execute(delete(STUDY).where(STUDY.c.id == study_id))


def merge_provenance(connection: Connection, study_id: int, provenance: Mapping[str, Any]) -> None:
    query = select(STUDY.c.provenance).where(STUDY.c.id == study_id).with_for_update()
    known = {key: value for key, value in (connection.scalar(query) or {}).items() if key != ERROR}
    connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(provenance={**known, **provenance}))


def add_clock(connection: Connection, study_id: int, seconds: float) -> None:
    """Count seconds for which a finalist's clock ran. The caller holds the study's lock."""
    clock = get_of_id(connection, study_id).provenance.get(FINALISTS_CLOCK, {})
    clock = {**clock, "seconds": clock.get("seconds", 0.0) + seconds}
    merge_provenance(connection, study_id, {FINALISTS_CLOCK: clock})


def claim_log(connection: Connection, study_id: int, holder: str, lease_s: float) -> bool:
    """True for one holder at a time, for `lease_s` seconds or until it claims 0: it may log the study elsewhere."""
    leases.lock_study(connection, study_id)
    known, now = get_of_id(connection, study_id).provenance, clock.now(connection)
    held = known.get(LOGGED, {})
    if held.get("holder") != holder and held.get("until", 0.0) > now:
        return False
    kept = {ERROR: known[ERROR]} if ERROR in known else {}
    merge_provenance(connection, study_id, {LOGGED: {"holder": holder, "until": now + lease_s}, **kept})
    return True


def claim_mending(connection: Connection, study_id: int, every_s: float) -> bool:
    """True for one caller in `every_s` seconds, by the database's clock; False for all others.

    Somebody looks all the time while the study is worked on, so the time between two looks is what was used of its time
    budget, however many work on it; after a pause of MAX_MISSED looks or more nobody has.

    On PostgreSQL also where another changes the study's row at this moment: many workers look, and one of them will
    find it free, while to wait would keep those waiting who take a trial.
    """
    due = (STUDY.c.id == study_id) & (STUDY.c.mended_at <= CLOCK - every_s)
    if connection.dialect.name == "postgresql":
        free = select(STUDY.c.id).where(due).with_for_update(key_share=True, skip_locked=True)
        if connection.scalar(free) is None:
            return False
    since = CLOCK - STUDY.c.mended_at
    counts = and_(STUDY.c.state.in_(SEARCH_STATES), since < MAX_MISSED * every_s)
    seconds = STUDY.c.seconds + case((counts, since), else_=0.0)
    # MySQL assigns from left to right: seconds come first, while mended_at is still that of the last look
    change = update(STUDY).where(due).ordered_values((STUDY.c.seconds, seconds), (STUDY.c.mended_at, CLOCK))
    return connection.execute(change).rowcount > 0


def mending_is_due(connection: Connection, study_id: int, every_s: float) -> bool:
    """Whether `claim_mending` may succeed: what most callers learn, without a write."""
    since = CLOCK - STUDY.c.mended_at
    return connection.scalar(select(STUDY.c.id).where(STUDY.c.id == study_id, since >= every_s)) is not None


def claim_mirror(connection: Connection, study_id: int, lease_s: float) -> bool:
    """True for one caller at a time, for `lease_s` seconds or until `release_mirror`: it may change Optuna's study."""
    free = (STUDY.c.id == study_id) & (STUDY.c.mirrored_at <= CLOCK)
    return connection.execute(update(STUDY).where(free).values(mirrored_at=CLOCK + lease_s)).rowcount > 0


def release_mirror(connection: Connection, study_id: int) -> None:
    connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(mirrored_at=0.0))


def _find(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(STUDY).where(STUDY.c.name == name)).one_or_none()


def _to_study(row: Row[Any]) -> StudyRecord:
    wrote = newer_writer(row.provenance)
    if wrote:
        warn_of_newer_writer(row.name, wrote)
    return StudyRecord(row.id, row.name, row.state, row.spec, row.provenance, row.created_at)
