"""Types of a study's fields that pydantic has not: durations with units, and pairs of a low and a high end."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from pruning.stage import MAX_WPR_ITERATIONS

UNIT_S = {"s": 1, "m": 60, "h": 3600}


def parse_duration(value: Any) -> float | None:
    """Seconds of "90s", "30m" or "2h"; None stays None. Raises ValueError with the rule."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ValueError("must be a duration above zero such as 90s, 30m or 2h")
    return float(match[1]) * UNIT_S[match[2]]


def format_duration(seconds: float) -> str:
    """Inverse of `parse_duration`, in the largest unit that divides it."""
    for unit in ("h", "m", "s"):
        if seconds % UNIT_S[unit] == 0:
            return f"{int(seconds // UNIT_S[unit])}{unit}"
    return f"{Decimal(repr(seconds)):f}s"  # repr is exact and :f has no exponent


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]


def _pair(kind: type[int] | type[float], holds: Callable[[float], bool], rule: str) -> BeforeValidator:
    """A validator of [low, high] whose ends are of `kind` and fulfil `holds`; null passes."""
    noun = "whole numbers" if kind is int else "numbers"

    def check(value: Any) -> Any:
        if value is None:
            return None
        allowed = (int,) if kind is int else (int, float)
        if not isinstance(value, list | tuple) or len(value) != 2 or any(type(v) not in allowed for v in value):
            raise ValueError(f"must be [low, high], two {noun} {rule}")
        if not all(holds(v) for v in value):
            raise ValueError(f"must hold {noun} {rule}")
        if value[0] > value[1]:
            raise ValueError("must be [low, high] with low at most high")
        return kind(value[0]), kind(value[1])

    return BeforeValidator(check)


Blocks = Annotated[tuple[int, int], _pair(int, lambda v: v >= 0, "from 0 (the first block)")]
Keep = Annotated[tuple[float, float], _pair(float, lambda v: 0 < v <= 1, "in (0, 1]")]
Votes = Annotated[tuple[int, int], _pair(int, lambda v: 1 <= v <= MAX_WPR_ITERATIONS, f"in 1..{MAX_WPR_ITERATIONS}")]
Partition = Annotated[tuple[float, float], _pair(float, lambda v: 0 < v < 1, "in (0, 1)")]
Share = Annotated[tuple[float, float], _pair(float, lambda v: 0 <= v <= 1, "in [0, 1]")]
