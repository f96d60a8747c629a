"""Hypothesis strategies: any schedule, of one method or of several, whatever its options."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pruning.methods import METHODS, Option
from pruning.schedule import Schedule
from pruning.stage import Stage

methods = st.sampled_from(sorted(METHODS))


def values_of(option: Option) -> st.SearchStrategy[Any]:
    if option.choices:
        return st.sampled_from(option.choices)
    if isinstance(option.default, bool):
        return st.booleans()
    if isinstance(option.default, int):
        return st.integers(int(option.low), int(option.high))
    return st.floats(option.low, option.high)


@st.composite
def options_of(draw: st.DrawFn, method: str, inherited: dict[str, Any]) -> dict[str, Any]:
    table = {name: values_of(option) for name, option in METHODS[method].options.items()}
    options: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=table))
    both = {"v_min": 0.01, "v_max": 0.7} | inherited | options
    return options | {"v_min": 0.0} if "v_min" in table and both["v_min"] > both["v_max"] else options


@st.composite
def stages_of(draw: st.DrawFn, method: str, options: dict[str, Any], mixed: bool) -> list[Stage]:
    inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
    blocks = draw(st.lists(st.integers(0, 10**6), unique=True, max_size=5))
    keep, share, iterations = st.floats(0, 1, exclude_min=True), st.floats(0, 1), st.integers(1, 100)
    stages = []
    for block in blocks:
        own = draw(st.none() | methods) if mixed else None
        inherits = own in (None, method)
        changed = draw(options_of(own or method, options if inherits else {})) if mixed and draw(st.booleans()) else {}
        stages.append(Stage(block, draw(keep), draw(iterations), draw(inside), draw(share), own, changed))
    return stages


@st.composite
def schedules(draw: st.DrawFn, mixed: bool = True) -> Schedule:
    method = draw(methods)
    options = draw(options_of(method, {}))
    stages = draw(stages_of(method, options, mixed and draw(st.booleans())))
    return Schedule(stages, method, options, draw(st.booleans()))
