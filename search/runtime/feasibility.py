"""Whether a study's limits can be kept at all on its backbone, found out before any trial."""

from __future__ import annotations

from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.space import smallest
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation.schedule_evaluator import ScheduleEvaluator


def check_budget(spec: StudySpec, bench: ScheduleEvaluator) -> None:
    """Raise InputError if even the cheapest schedule of the space is over budget.max_gflops."""
    limit = spec.budget.max_gflops
    least = bench.flops(smallest(spec.space, bench.backbone.family.depth, bench.flops)) / 1e9
    if limit is not None and least > limit:
        rule = f"must be at least {least:.4g}, the cost of the cheapest schedule of the space"
        remedy = "raise it, or widen space.keep, space.blocks or space.max_stages"
        raise InputError("budget.max_gflops", rule, limit, remedy, source=spec.name)


def check_speedup(spec: StudySpec, bench: ScheduleEvaluator) -> None:
    """Raise InputError if not even the fastest schedule of the space is predicted to reach budget.min_speedup.

    Takes the latency profile, or takes it over; the study then keeps it. Where throughput is measured, nothing is known
    before.
    """
    limit = spec.budget.min_speedup
    if limit is None or spec.objectives.throughput == "measured":
        return
    bench.find_facts()
    depth = bench.backbone.family.depth
    fastest = smallest(spec.space, depth, lambda schedule: 1 / bench.throughput(schedule).speedup)
    most = bench.throughput(fastest).speedup
    if most < limit:
        raise speedup_limit_error(spec, most, bench.facts.profile_from)


def speedup_limit_error(spec: StudySpec, most: float, origin: str = "") -> InputError:
    """most: the speed-up that the fastest schedule of the space is predicted to reach. origin: the study that took the
    latency profile; "" if it was taken for this one."""
    profile = f"the latency profile of study {origin}" if origin else "a latency profile taken now"
    rule = (
        f"must be at most {most:.3g}, what the fastest schedule of the space is predicted to reach (by "
        f"{profile}, which is right to a few percent: leave some room)"
    )
    remedy = "lower it, or widen space.keep, space.blocks or space.max_stages"
    return InputError("budget.min_speedup", rule, f"{spec.budget.min_speedup:g}", remedy, source=spec.name)


def check_methods(spec: StudySpec, bench: ScheduleEvaluator) -> None:
    """Raise ScheduleError if a method of the space cannot prune this backbone."""
    for method in spec.space.methods:
        PrunedViT(bench.backbone.model, Schedule([Stage(block=0, keep=0.5)], method))
