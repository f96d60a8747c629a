"""Our tables, next to Optuna's in the same database. What Optuna has no column for lives here.

A change here needs a migration in `search/storage/migrations/versions`.

Numbers that people query by SQL have their own columns; a whole measurement is one JSON document beside them.
Times are UTC, ISO 8601 text, but for heartbeats: seconds since 1970 by the database's clock.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

METADATA = MetaData()
PREFIX = "ztp_"

STUDY = Table(
    "ztp_study",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("note", Text, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("seconds", Double, nullable=False),  # evaluation time used so far, over all launches
    Column("created_at", String(32), nullable=False),
    Column("mended_at", Double, nullable=False, server_default="0"),  # seconds since 1970, the database's clock
    Column("mirrored_at", Double, nullable=False, server_default="0"),  # when the lease of who mirrors is over
    sqlite_autoincrement=True,  # the id of a deleted study is never another's: its workers may still be about
)

EVALUATION = Table(
    "ztp_evaluation",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("ztp_study.id"), nullable=False),
    Column("schedule_key", String(64), nullable=False),
    Column("trial", Integer, nullable=False),  # number of the first trial with this schedule
    Column("feasible", Boolean, nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("images", Integer, nullable=False),
    Column("throughput", Double, nullable=False),  # images/s
    Column("speedup", Double, nullable=False),
    Column("gflops", Double, nullable=False),
    Column("schedule", JSON, nullable=False),
    Column("measurement", JSON, nullable=False),
    Column("correct", LargeBinary, nullable=False),  # a bit per image
    Column("confirm", JSON),  # the measurement on the confirm split, of finalists
    Column("confirm_correct", LargeBinary),
    Column("created_at", String(32), nullable=False),
    Column("complete", Boolean, nullable=False, server_default=true()),  # every image of the split was seen
    Column("identity", String(64)),  # what was measured, the same in every study; NULL: not known
    Column("estimate", Double),  # the accuracy that fronts are chosen by; NULL: the one that was counted
    Column("confirm_estimate", Double),  # from search and confirm images together, of confirmed points of a front
    UniqueConstraint("study_id", "schedule_key", name="ztp_evaluation_once"),
    Index("ztp_evaluation_by_trial", "study_id", "trial"),
    Index("ztp_evaluation_by_complete", "study_id", "complete", "images"),  # progress without reading the rows
    Index("ztp_evaluation_by_identity", "identity"),
)

FRONT = Table(
    "ztp_front",
    METADATA,
    Column("study_id", Integer, ForeignKey("ztp_study.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("trials", Integer, nullable=False),  # completed when this version was written
    Column("hypervolume", Double, nullable=False),
    Column("reference_accuracy", Double, nullable=False),
    Column("reference_speedup", Double, nullable=False),
    Column("created_at", String(32), nullable=False),
)

FRONT_POINT = Table(
    "ztp_front_point",
    METADATA,
    Column("study_id", Integer, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("evaluation_id", Integer, ForeignKey("ztp_evaluation.id"), primary_key=True),
    Column("trial", Integer, nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("throughput", Double, nullable=False),
    Column("gflops", Double, nullable=False),
    Column("schedule", JSON, nullable=False),
    ForeignKeyConstraint(["study_id", "version"], ["ztp_front.study_id", "ztp_front.version"]),
)

SLOT = Table(  # the queue of tasks; of trials there are no more than the budget has
    "ztp_slot",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("ztp_study.id"), nullable=False),
    Column("kind", String(20), nullable=False, server_default="trial"),
    Column("worker", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("trial", Integer),
    Column("schedule_key", String(64)),
    Column("host", String(255), nullable=False),
    Column("process", String(64), nullable=False),
    Column("heartbeat_at", Double, nullable=False),  # seconds since 1970, the database's clock
    Column("lease", String(32), nullable=False, server_default=""),  # drawn anew each time a slot is taken
    Column("lease_s", Double, nullable=False, server_default="60"),  # after so long without a beat it is over
    Index("ztp_slot_by_kind", "study_id", "state", "kind"),  # trials are counted without reading the rows
    Index("ztp_slot_by_worker", "worker"),
    Index("ztp_slot_by_lease", "lease"),
)

TRIAL = Table(  # keys of its columns are the fields of `search.types.Trial`
    "ztp_trial",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("ztp_study.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(20), nullable=False),  # WAITING, RUNNING, COMPLETE, PRUNED or FAIL
    Column("params", JSON, nullable=False),
    Column("user_attributes", JSON, nullable=False),
    Column("system_attributes", JSON, nullable=False),  # what the sampler keeps with its proposal
    Column("objectives", JSON(none_as_null=True), key="values"),  # accuracy and images/s of a complete one
    Column("limits", JSON, key="constraints"),  # by limit of the budget, by how much it was exceeded
    Column("started_at", Double),  # seconds since 1970, the database's clock
    Column("ended_at", Double),
    UniqueConstraint("study_id", "number", name="ztp_trial_once"),
    Index("ztp_trial_by_state", "study_id", "state"),
)

ATTEMPT = Table(  # failed attempts at a task
    "ztp_attempt",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("ztp_study.id"), nullable=False),
    Column("trial", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("task", String(20), nullable=False, server_default="trial"),  # the kind in ztp_slot
    Index("ztp_attempt_by_trial", "study_id", "trial"),
)
