"""The database's clock, by which leases and times of trials go: workers on several machines share that one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Double, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())::float8",
    "mysql": "(unix_timestamp(now(3)) + 0.0e0)",
}


class Clock(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, within a statement."""

    type = Double()
    inherit_cache = True


@compiles(Clock)
def _compile_clock(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    return _NOW[compiler.dialect.name]


CLOCK = Clock()


def now(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock."""
    return float(connection.scalar(select(CLOCK)) or 0.0)
