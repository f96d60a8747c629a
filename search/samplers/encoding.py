"""A schedule as a point in space, so that schedules which lose about as much lie close together."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pruning.methods import METHODS
from pruning.schedule import Schedule
from search.config.space import METHOD_FIELDS
from search.samplers.sampler_context import SamplerContext

MAX_SUDDEN = 4.0  # of the sum of squares, for a feature of about 1: one stage that keeps an eighth


def describe(schedule: Schedule, context: SamplerContext) -> NDArray[np.float64]:
    """[depth + 3 + methods + option values] the share of the tokens that is gone behind each block, then how.

    How: the methods' own fields, methods and options count by the tokens that a stage drops; fields as differences from
    the middle of their range, iterations by their logarithm; methods and options one number for each choice there is.
    Last how suddenly: the sum over stages of the squared logarithm of what is kept, for one large stage loses more than
    two small ones.
    Raises ScheduleError if the schedule does not fit.
    """
    plans = {plan.block: plan for plan in schedule.plan(context.tokens, context.depth)}
    left = context.tokens  # behind the blocks so far
    gone: list[float] = []
    sudden = 0.0
    how = [0.0] * len(METHOD_FIELDS)
    choices = _choices(context)
    dropped_by = dict.fromkeys(choices, 0.0)
    for stage in schedule.stages:
        plan = plans.get(stage.block)
        if plan is None:
            continue
        gone += [1 - left / context.tokens] * (stage.block - len(gone))
        left = plan.kept
        sudden += math.log(plan.kept / plan.tokens) ** 2
        dropped = (plan.tokens - plan.kept) / context.tokens
        method, options = schedule.method_of(stage)
        for i, field in enumerate(METHOD_FIELDS):
            if field in METHODS[method].stage_fields:
                how[i] += dropped * _position(getattr(stage, field), field, context)
        for choice in ((method, "", ""), *((method, name, str(value)) for name, value in options.items())):
            if choice in dropped_by:
                dropped_by[choice] += dropped
    gone += [1 - left / context.tokens] * (context.depth - 1 - len(gone))
    return np.array([*gone, *how, *dropped_by.values(), sudden / MAX_SUDDEN])


def _choices(context: SamplerContext) -> list[tuple[str, str, str]]:
    """Each method, and each listed value of its options; none where there is no choice."""
    space = context.space
    choices = [(method, "", "") for method in space.methods] if len(space.methods) > 1 else []
    for method, options in space.options.items():
        rows = METHODS[method].options
        for name, values in options.items():
            if len(values) > 1:
                choices += [(method, name, str(rows[name].check(name, value))) for value in values]
    return choices


def _position(value: float, field: str, context: SamplerContext) -> float:
    """Where a field's value lies in its range, from -0.5 to 0.5."""
    low, high = map(float, getattr(context.space, field))
    if low == high:
        return 0.0
    if field == "wpr_iterations":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(max((value - low) / (high - low), 0.0), 1.0) - 0.5
