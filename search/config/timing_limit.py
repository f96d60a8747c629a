"""How long one timing may take, from the environment; light, for what must not load torch."""

from __future__ import annotations

import math
import os

from search.errors import InputError

VARIABLE = "ZTP_TIMING_LIMIT"
DEFAULT_S = 20.0


def timing_limit() -> float:
    """Seconds after which no further pair of passes is timed; 0 to take every timing as it comes.

    Raises InputError unless the variable is a number of seconds, 0 or more.
    """
    text = os.environ.get(VARIABLE, "").strip()
    try:
        seconds = float(text) if text else DEFAULT_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(VARIABLE, "must be a number of seconds, 0 or more", repr(text), f"unset it for {DEFAULT_S:g}")
    return seconds
