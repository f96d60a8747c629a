"""A schedule as a point in space, so that schedules which lose about as much lie close together.

Knows schedules. Ignores what is done with the numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pruning.schedule import Schedule
from search.study.problem import Problem
from search.study.space import METHOD_FIELDS


def describe(schedule: Schedule, problem: Problem) -> NDArray[np.float64]:
    """[depth - 1 + 3 + methods] the share of the tokens that is gone behind each block, then how it was chosen.

    The method's own fields count by the tokens that a stage drops, as differences from the middle of their range,
    votes by their logarithm. Raises ScheduleError if the schedule does not fit.
    """
    plans = {plan.block: plan for plan in schedule.plan(problem.tokens, problem.depth)}
    gone = np.zeros(problem.depth - 1)
    how = np.zeros(len(METHOD_FIELDS))
    for stage in schedule.stages:
        plan = plans.get(stage.block)
        if plan is None:
            continue
        gone[stage.block :] = 1 - plan.kept / problem.tokens
        dropped = (plan.tokens - plan.kept) / problem.tokens
        how += dropped * np.array([_position(getattr(stage, f), f, problem) for f in METHOD_FIELDS])
    method = np.zeros(len(problem.space.methods))
    if schedule.stages and len(method) > 1:
        method[problem.space.methods.index(schedule.method)] = gone[-1]
    return np.concatenate([gone, how, method])


def _position(value: float, field: str, problem: Problem) -> float:
    """Where a field's value lies in its range, from -0.5 to 0.5."""
    low, high = getattr(problem.space, field)
    if low == high:
        return 0.0
    if field == "wpr_iterations":
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float(min(max((value - low) / (high - low), 0.0), 1.0) - 0.5)
