"""Durations from environment variables; light, for what must not load torch."""

from __future__ import annotations

import math
import os

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
