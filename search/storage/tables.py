"""Our tables, next to Optuna's in the same database. What Optuna has no column for lives here.

A change here needs a migration in `search/storage/migrations/versions`.

Numbers that people query by SQL have their own columns; a whole measurement is one JSON document beside them.
Times are UTC, ISO 8601 text, but for heartbeats: seconds since 1970 by the database's clock.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
PREFIX = "ztp_"

STUDY = sa.Table(
    "ztp_study",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, unique=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("provenance", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),  # evaluation time used so far, over all launches
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("mended_at", sa.Double, nullable=False, server_default="0"),  # seconds since 1970, the database's clock
    sa.Column("mirrored_at", sa.Double, nullable=False, server_default="0"),  # when the lease of who mirrors is over
    sqlite_autoincrement=True,  # the id of a deleted study is never another's: its workers may still be about
)

EVALUATION = sa.Table(
    "ztp_evaluation",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
    sa.Column("schedule_key", sa.String(64), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),  # number of the first trial with this schedule
    sa.Column("feasible", sa.Boolean, nullable=False),
    sa.Column("accuracy", sa.Double, nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("throughput", sa.Double, nullable=False),  # images/s
    sa.Column("speedup", sa.Double, nullable=False),
    sa.Column("gflops", sa.Double, nullable=False),
    sa.Column("schedule", sa.JSON, nullable=False),
    sa.Column("measurement", sa.JSON, nullable=False),
    sa.Column("correct", sa.LargeBinary, nullable=False),  # a bit per image
    sa.Column("confirm", sa.JSON),  # the measurement on the confirm split, of finalists
    sa.Column("confirm_correct", sa.LargeBinary),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.true()),  # every image of the split was seen
    sa.Column("identity", sa.String(64)),  # what was measured, the same in every study; NULL: not known
    sa.Column("estimate", sa.Double),  # the accuracy that fronts are chosen by; NULL: the one that was counted
    sa.Column("confirm_estimate", sa.Double),  # from search and confirm images together, of confirmed points of a front
    sa.UniqueConstraint("study_id", "schedule_key", name="ztp_evaluation_once"),
    sa.Index("ztp_evaluation_by_trial", "study_id", "trial"),
    sa.Index("ztp_evaluation_by_complete", "study_id", "complete", "images"),  # progress without reading the rows
    sa.Index("ztp_evaluation_by_identity", "identity"),
)

FRONT = sa.Table(
    "ztp_front",
    METADATA,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("trials", sa.Integer, nullable=False),  # completed when this version was written
    sa.Column("hypervolume", sa.Double, nullable=False),
    sa.Column("reference_accuracy", sa.Double, nullable=False),
    sa.Column("reference_speedup", sa.Double, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
)

FRONT_POINT = sa.Table(
    "ztp_front_point",
    METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("evaluation_id", sa.Integer, sa.ForeignKey("ztp_evaluation.id"), primary_key=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("accuracy", sa.Double, nullable=False),
    sa.Column("throughput", sa.Double, nullable=False),
    sa.Column("gflops", sa.Double, nullable=False),
    sa.Column("schedule", sa.JSON, nullable=False),
    sa.ForeignKeyConstraint(["study_id", "version"], ["ztp_front.study_id", "ztp_front.version"]),
)

SLOT = sa.Table(  # the queue of tasks; of trials there are no more than the budget has
    "ztp_slot",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False, server_default="trial"),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("schedule_key", sa.String(64)),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("process", sa.String(64), nullable=False),
    sa.Column("heartbeat_at", sa.Double, nullable=False),  # seconds since 1970, the database's clock
    sa.Column("lease", sa.String(32), nullable=False, server_default=""),  # drawn anew each time a slot is taken
    sa.Column("lease_s", sa.Double, nullable=False, server_default="60"),  # after so long without a beat it is over
    sa.Index("ztp_slot_by_kind", "study_id", "state", "kind"),  # trials are counted without reading the rows
    sa.Index("ztp_slot_by_worker", "worker"),
    sa.Index("ztp_slot_by_lease", "lease"),
)

TRIAL = sa.Table(  # keys of its columns are the fields of `search.types.Trial`
    "ztp_trial",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),  # WAITING, RUNNING, COMPLETE, PRUNED or FAIL
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("user_attributes", sa.JSON, nullable=False),
    sa.Column("system_attributes", sa.JSON, nullable=False),  # what the sampler keeps with its proposal
    sa.Column("objectives", sa.JSON(none_as_null=True), key="values"),  # accuracy and images/s of a complete one
    sa.Column("limits", sa.JSON, key="constraints"),  # by limit of the budget, by how much it was exceeded
    sa.Column("started_at", sa.Double),  # seconds since 1970, the database's clock
    sa.Column("ended_at", sa.Double),
    sa.UniqueConstraint("study_id", "number", name="ztp_trial_once"),
    sa.Index("ztp_trial_by_state", "study_id", "state"),
)

ATTEMPT = sa.Table(  # failed attempts at a task
    "ztp_attempt",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("task", sa.String(20), nullable=False, server_default="trial"),  # the kind in ztp_slot
    sa.Index("ztp_attempt_by_trial", "study_id", "trial"),
)
