"""Alembic migrations of our tables. Their version table is `ztp_alembic_version`; Optuna's is `alembic_version`.

New databases get the tables of `tables.py`; the scripts upgrade those that earlier releases made.
HEAD stands here so that opening an up-to-date store does not load Alembic (a test compares it with the scripts).
To change a table: change `tables.py`, add `versions/NNNN_what.py`, set HEAD.
"""

HEAD = "0009"
OLDEST = "0004"  # of release 0.1, the first
VERSION_TABLE = "ztp_alembic_version"
