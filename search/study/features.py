"""A schedule as a point in space, so that schedules which lose about as much lie close together.

Knows schedules. Ignores what is done with the numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pruning.methods import METHODS
from pruning.schedule import Schedule
from search.study.problem import Problem
from search.study.space import METHOD_FIELDS


def describe(schedule: Schedule, problem: Problem) -> NDArray[np.float64]:
    """[depth - 1 + 3 + methods + option values] the share of the tokens that is gone behind each block, then how.

    The method's own fields count by the tokens that a stage drops, as differences from the middle of their range,
    votes by their logarithm. Method and options count by what is gone at the end, one number for each choice there
    is. Raises ScheduleError if the schedule does not fit.
    """
    plans = {plan.block: plan for plan in schedule.plan(problem.tokens, problem.depth)}
    read = [field in METHODS[schedule.method].stage_fields for field in METHOD_FIELDS]
    left = problem.tokens  # behind the blocks so far
    gone: list[float] = []
    how = [0.0] * len(METHOD_FIELDS)
    for stage in schedule.stages:
        plan = plans.get(stage.block)
        if plan is None:
            continue
        gone += [1 - left / problem.tokens] * (stage.block - len(gone))
        left = plan.kept
        dropped = (plan.tokens - plan.kept) / problem.tokens
        for i, field in enumerate(METHOD_FIELDS):
            if read[i]:
                how[i] += dropped * _position(getattr(stage, field), field, problem)
    at_end = 1 - left / problem.tokens
    gone += [at_end] * (problem.depth - 1 - len(gone))
    return np.array(gone + how + [at_end * chosen for chosen in _choices(schedule, problem)])


def _choices(schedule: Schedule, problem: Problem) -> list[bool]:
    """For each method and each listed option's value, whether it is the schedule's; none where there is no choice."""
    space = problem.space
    chosen = [schedule.method == method for method in space.methods] if len(space.methods) > 1 else []
    everything = METHODS[schedule.method].all_options(schedule.options)
    for method, options in space.options.items():
        for name, values in options.items():
            if len(values) > 1:
                chosen += [schedule.method == method and everything[name] == value for value in values]
    return chosen


def _position(value: float, field: str, problem: Problem) -> float:
    """Where a field's value lies in its range, from -0.5 to 0.5."""
    low, high = map(float, getattr(problem.space, field))
    if low == high:
        return 0.0
    if field == "wpr_iterations":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(max((value - low) / (high - low), 0.0), 1.0) - 0.5
