"""Whether a study can run on this machine, and its limits be kept at all: found out before any trial."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from pruning.backbones import Backbone, sketch_backbone
from pruning.errors import ScheduleError
from pruning.model import PrunedViT
from pruning.model_registry import Refused, look_up
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.attribute_keys import FACTS
from search.config.environment import timing_limit
from search.config.sections import shown_limit
from search.config.space import block_range, smallest
from search.config.spec import StudyRecord, StudySpec, check_files, check_packages
from search.config.warm_start import Start, check_start, starts_of
from search.errors import InputError
from search.evaluation.calibration import Calibration
from search.evaluation.data.sources import DemoImages
from search.evaluation.evaluation_context import EvaluationContext, for_backbone
from search.evaluation.runtimes import RUNTIMES
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.samplers.custom import allowed_classes, check_sampler

WIDEN = "widen space.keep, space.blocks or space.max_stages"


def check_here(spec: StudySpec) -> None:
    """What can be checked without loading a model. Raises InputError."""
    check_files(spec)
    check_packages(spec)
    check_sampler(spec, allowed_classes())
    timing_limit()
    if spec.deployed is not None:
        runtime = RUNTIMES[spec.deployed.runtime]
        runtime.check_precision(f"{spec.name}: deployment.precision", spec.deployed.precision)
        place = "deployment.runtime" if spec.deployment is not None else "objectives.throughput"
        runtime.check_installed(f"{spec.name}: {place}")


def open_evaluator(spec: StudySpec, known: StudyRecord | None, start: Sequence[Start] = ()) -> ScheduleEvaluator:
    """The study's model and images on this machine. Raises InputError or PruningError, also for a corrupt image.

    known: its record, if it has one; SearchError if weights or images here are not those it was launched with. start:
    what a new study begins with.
    """
    found = None if known is None else known.provenance.get(FACTS)
    calibration = None if found is None else Calibration.from_dict(found)
    evaluator = ScheduleEvaluator.open(spec, calibration)
    if calibration is not None:
        evaluator.use(calibration)
    check_tokens(evaluator.spec, evaluator.backbone)
    check_methods(evaluator.spec, evaluator.backbone)
    check_budget(evaluator.spec, evaluator.context)
    if found is None:  # of a study that has begun, this was checked then
        starts = start if known is None else starts_of(known)
        check_start(starts, evaluator.spec, evaluator.backbone.family.depth, depth_of)
    _ = evaluator.context.search_split
    if calibration is None:
        _ = evaluator.context.confirm_split
    return evaluator


def depth_of(name: str) -> int | None:
    """How many blocks a backbone has; None for one that is not known here."""
    (entry,) = look_up([name])
    return None if isinstance(entry, Refused) else entry.blocks


def check_budget(spec: StudySpec, context: EvaluationContext) -> None:
    """Raise InputError if even the cheapest schedule of the space is over budget.max_gflops."""
    limit = spec.budget.max_gflops
    least = context.flops(smallest(spec.space, context.backbone.family.depth, context.flops)) / 1e9
    if limit is not None and least > limit:
        rule = f"must be at least {least:.4g}, the cost of the cheapest schedule of the space"
        raise InputError("budget.max_gflops", rule, limit, f"raise it, or {WIDEN}", source=spec.name)


def check_speedup(spec: StudySpec, evaluator: ScheduleEvaluator) -> None:
    """Raise InputError if not even the fastest schedule of the space is predicted to keep the budget's limits of speed.

    Takes the latency profile, or takes it over; the study then keeps it. Where throughput is measured, nothing is known
    before.
    """
    budget = spec.budget
    if (budget.min_speedup is None and budget.max_latency_ms is None) or spec.objectives.throughput == "measured":
        return
    evaluator.calibrate()
    depth, speed = evaluator.backbone.family.depth, evaluator.speed
    most = most_speedup(spec, depth, lambda schedule: speed.throughput(schedule).speedup)
    check_reachable(spec, most, evaluator.calibration.profile_from)
    dense, limit = evaluator.calibration.dense_latency, budget.max_latency_ms
    if dense is not None and limit is not None and most < dense[limit.percentile] / limit.ms:
        least = dense[limit.percentile] / most
        rule = f"must be at least {least:.3g}, what the fastest schedule of the space is predicted to take"
        got = shown_limit(budget, "max_latency_ms")
        raise InputError("budget.max_latency_ms", rule, got, f"raise it, or {WIDEN}", source=spec.name)


def most_speedup(spec: StudySpec, depth: int, speedup: Callable[[Schedule], float]) -> float:
    """Of the fastest schedule of the space, as `speedup` predicts it."""
    return speedup(smallest(spec.space, depth, lambda schedule: 1 / speedup(schedule)))


def check_reachable(spec: StudySpec, most: float, origin: str = "") -> None:
    """Raise InputError if budget.min_speedup is more than what the fastest schedule of the space is predicted to reach.

    most: that. origin: the study that took the latency profile; "" if it was taken for this one.
    """
    if spec.budget.min_speedup is None or most >= spec.budget.min_speedup:
        return
    profile = f"the latency profile of study {origin}" if origin else "a latency profile taken now"
    rule = (
        f"must be at most {most:.3g}, what the fastest schedule of the space is predicted to reach (by "
        f"{profile}, which is right to a few percent: leave some room)"
    )
    got = f"{spec.budget.min_speedup:g}"
    raise InputError("budget.min_speedup", rule, got, f"lower it, or {WIDEN}", source=spec.name)


def check_sketch(spec: StudySpec) -> None:
    """What a backbone's shape tells, without its weights. Raises InputError or PruningError."""
    backbone = sketch_backbone(spec.backbone.name, **spec.backbone.options)
    spec = for_backbone(spec, backbone.family)
    block_range(spec.space, backbone.family.depth)
    check_tokens(spec, backbone)
    check_methods(spec, backbone)
    check_source(spec, backbone)


def check_source(spec: StudySpec, backbone: Backbone) -> None:
    """Raise InputError for bundled images that are not of the backbone's size."""
    if spec.data.path is None and backbone.family.image_shape != DemoImages.shape:
        rule = f"{spec.data.source} does not fit backbone {spec.backbone.name}"
        raise InputError("data.source", rule, source=spec.name)


def check_tokens(spec: StudySpec, backbone: Backbone) -> None:
    """Raise InputError for a backbone of so few tokens that three ordinary stages leave none."""
    tokens, depth = backbone.family.tokens, backbone.family.depth
    fewest = next(count for count in itertools.count(2) if _leaves_tokens(count, depth))
    if tokens < fewest:
        rule = f"must give at least {fewest} patch tokens, for fewer leave nothing to prune"
        size = "x".join(map(str, backbone.family.image_shape[1:]))
        raise InputError("backbone.img_size", rule, f"{tokens} of {size} pixels", "enlarge it", source=spec.name)


def _leaves_tokens(tokens: int, depth: int) -> bool:
    try:
        Schedule([Stage(block, 0.7) for block in range(min(3, depth - 1))], "random").plan(tokens, depth)
    except ScheduleError:
        return False
    return True


def check_methods(spec: StudySpec, backbone: Backbone) -> None:
    """Raise ScheduleError if a method of the space cannot prune this backbone."""
    for method in spec.space.methods:
        PrunedViT(backbone.model, Schedule([Stage(block=0, keep=0.5)], method))
