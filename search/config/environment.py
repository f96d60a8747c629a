"""Durations from environment variables, those of workers among them; light, for what must not load torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from search.errors import InputError

TIMING_LIMIT, TIMING_LIMIT_S = "ZTP_TIMING_LIMIT", 20.0


def read_seconds(name: str, default: float, least: float = 0.0) -> float:
    """The variable's seconds; `default` where it is not set. Raises InputError unless a number, `least` or more."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        rule = f"must be a number of seconds, at least {least:g}"
        raise InputError(name, rule, repr(text), f"the default is {default:g}")
    return value


def timing_limit() -> float:
    """Seconds after which no further pair of passes is timed; 0 to take every timing as it comes. Raises InputError."""
    return read_seconds(TIMING_LIMIT, TIMING_LIMIT_S)


HEARTBEAT = "ZTP_HEARTBEAT"
PATIENCE = "ZTP_DATABASE_PATIENCE"


@dataclass(frozen=True)
class WorkerSettings:
    """heartbeat_s: a worker that dies is replaced within two of these. patience_s: a database may be gone so long.

    Of two heartbeats, one and a quarter are the lease, and an eighth passes until somebody looks: the rest is for busy
    machines. A worker beats four times in each, so that some beats may be lost. The lease is kept with the slot:
    workers may have different heartbeats.
    """

    heartbeat_s: float = 10.0
    patience_s: float = 300.0

    @property
    def beat_s(self) -> float:
        """Between two beats."""
        return self.heartbeat_s / 4

    @property
    def lease_s(self) -> float:
        """Silence after which a worker is taken for dead."""
        return 1.25 * self.heartbeat_s

    @property
    def look_s(self) -> float:
        """Between two looks, of all workers of a study together, at who has died."""
        return self.heartbeat_s / 8


def read_settings() -> WorkerSettings:
    """From the environment. Raises InputError."""
    default = WorkerSettings()
    return WorkerSettings(
        heartbeat_s=read_seconds(HEARTBEAT, default.heartbeat_s, least=0.1),
        patience_s=read_seconds(PATIENCE, default.patience_s),
    )
