"""Which releases may work on one database: ours by what a study was written with, Optuna by who made its tables.

Invariants: - Optuna 4 and 5 never share a store: 4 writes local times where 5 writes UTC, and does not see 5's
constraints; - a study that a newer series of ours has written is read, with a warning: it may hold what this one cannot
mean. A series is the major version, or 0.minor before 1.0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, inspect, text

from search.attribute_keys import VERSIONS

PACKAGE = "zero-tprune-search"
OPTUNA_SERIES = 5  # the major version whose times and constraints our rows rest on
LOGGER = logging.getLogger(__name__)


@cache
def installed() -> str:
    """Our own version here."""
    return version(PACKAGE)


def series(release: str) -> tuple[int, int]:
    """(1, 0) of "1.4.2" and (0, 3) of "0.3.1": releases of one series understand each other's rows."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), 0 if int(major) else int(minor or 0))


def newer_writer(provenance: Mapping[str, Any], ours: str | None = None) -> str | None:
    """The release that wrote a study, if it is of a newer series than `ours` (default: the one installed)."""
    wrote = (provenance.get(VERSIONS) or {}).get(PACKAGE)
    try:
        return str(wrote) if wrote and series(str(wrote)) > series(ours or installed()) else None
    except ValueError:  # not a version of ours to compare
        return None


@cache  # once a study and process, however often it is read
def warn_of_newer_writer(study: str, wrote: str) -> None:
    LOGGER.warning(
        "study %s was written by %s %s, got %s here: it may hold what this release cannot read; upgrade this one",
        *(study, PACKAGE, wrote, installed()),
    )


def optuna_writer(connection: Connection) -> str | None:
    """The Optuna release that made this database's tables, or upgraded them last; None if it has none."""
    if not inspect(connection).has_table("version_info"):
        return None
    return str(connection.scalar(text("SELECT library_version FROM version_info")))


def optuna_problem(wrote: str, installed: str) -> str | None:
    """Why this Optuna must not work on tables of that one, and what to do; None if it may."""
    here, there = int(installed.partition(".")[0]), int(wrote.partition(".")[0])
    if here < OPTUNA_SERIES:
        return f"optuna must be {OPTUNA_SERIES} or newer, got {installed}; pip install --upgrade optuna"
    if there < OPTUNA_SERIES:
        return (
            f"its tables were last written by optuna {wrote}, whose times and constraints differ from {installed}; "
            "end every process of it, then run ztp db upgrade"
        )
    if there > here:
        return f"its tables were written by optuna {wrote}, got {installed} here; pip install --upgrade optuna"
    return None
