"""What a study would take, without evaluating anything: its costs by arithmetic, its time by a short latency profile.

Works where neither the weights nor the images are: speed does not depend on what they hold, so random weights and noise
serve.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pruning.backbones import load_backbone
from pruning.checkpoints.names import folder_of
from pruning.errors import ScheduleError
from pruning.schedule import UNTOUCHED, Schedule
from search.config.sections import WEIGHTS
from search.config.space import distributions, smallest, to_schedule
from search.config.spec import StudySpec
from search.config.starting_schedules import baselines
from search.evaluation.calibration import CHECKED_BATCHES, CHECKED_IMAGES
from search.evaluation.data.label_mapping import Classes
from search.evaluation.data.sources import LoadedImages
from search.evaluation.data.splits import Images
from search.evaluation.device import bfloat16_is_fast, choose_device, synchronize
from search.evaluation.evaluation_context import EvaluationContext, for_backbone
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.latency_profiler import MIN_IMAGES, PASS_S, TURNS, Turns, measure_profile
from search.evaluation.profile_cases import stage_kinds
from search.evaluation.runtimes import RUNTIMES
from search.evaluation.schedule_evaluator import images_of_a_look
from search.evaluation.throughput import REPEATS
from search.runtime import feasibility

DRAWS = 1000  # schedules of the space, drawn uniformly: a share of 0.5 is then known to 0.03
PROFILE_POINTS = 3
SHORT = Turns(least=1, most=3, enough_s=2.0)
# passes of the dense model that a profile's rounds take: of each kind's whole model, of all blocks on fewer tokens, of
# the grid, of each kind's parts
WHOLE_PASSES, BLOCKS_PASSES, GRID_PASSES, KIND_PASSES = 0.75, 2.5, 1.6, 0.25
BATCH_S = 0.4  # the dense model's batch is cut to about this, for a forecast is to take seconds
FIRST_LOOKS = 4  # at one image, the first of which warms up
FINALISTS = 10  # that are confirmed; a front has rarely more within a budget's trials


@dataclass(frozen=True)
class Forecast:
    """What is known of a study before it runs. Seconds are of one worker.

    gflops: of one image, by name: dense, cheapest, and each baseline. feasible: the share of schedules drawn uniformly
    from the space that keep the limits which need no image. trial_s: shortest, median and longest of the feasible
    ones, every image seen. prepare_s: number format, latency profile, and the dense model on the search images.
    confirm_s: the finalists' images and timings. drift: by how much the dense model's speed changed, as a share,
    while this was found out. notes: what was not there, and what was taken in its place.
    """

    spec: StudySpec
    gflops: Mapping[str, float]
    feasible: float
    speedups: tuple[float, float]  # of the feasible schedules drawn: the least and the most
    dense_images_per_s: float
    prepare_s: float
    trial_s: tuple[float, float, float]
    confirm_s: float
    drift: float
    dtype: str
    hardware: str
    batch_size: int
    notes: tuple[str, ...]
    finalists: int = FINALISTS

    @property
    def search_s(self) -> float:
        """All trials but the dense model's, which the preparation runs, none stopped early, at the median's time, and
        no looks at other candidates."""
        return self._search_s(self.trial_s[1])

    @property
    def total_s(self) -> float:
        """Preparation and search, together within the time budget, and confirmation."""
        return self._total_s(self.search_s)

    @property
    def between_s(self) -> tuple[float, float]:
        """The total if the sampler asked for nothing but the fastest schedules, or the slowest, and looked at as many
        candidates as it may, on a machine that much faster or slower than it drifted here."""
        shortest, _, longest = self.trial_s
        ends = self._total_s(self._search_s(shortest)), self._total_s(self._search_s(longest * (1 + self.looks)))
        return ends[0] / (1 + self.drift), ends[1] * (1 + self.drift)

    @property
    def looks(self) -> float:
        """By how much looks at candidates may lengthen the search, as a share of the trials."""
        spec, images = self.spec, self.spec.data.search_images
        look = images_of_a_look(images, spec.runtime.batch_size) if spec.sampler.name == "auto" else 0
        return spec.sampler.probes * look / images

    def _search_s(self, trial_s: float) -> float:
        return (self.spec.budget.trials - 1) * trial_s

    def _total_s(self, search_s: float) -> float:
        limit, used = self.spec.budget.time, self.prepare_s + search_s
        return (used if limit is None else min(used, max(limit, self.prepare_s))) + self.confirm_s


def forecast(spec: StudySpec) -> Forecast:
    """Raises InputError or PruningError for a study that could not be launched anywhere; writes nothing."""
    context, notes = _open(spec)
    spec = context.spec
    feasibility.check_tokens(spec, context.backbone)
    feasibility.check_methods(spec, context.backbone)
    feasibility.check_budget(spec, context)
    depth = context.backbone.family.depth
    drawn = _draw(context)
    clock = _Clock(context)
    profile = clock.profile()
    if spec.budget.min_speedup is not None:
        most = feasibility.most_speedup(spec, depth, lambda schedule: profile.predict(schedule).speedup)
        feasibility.check_reachable(spec, most)
    fitting = [schedule for schedule in drawn if _fits(schedule, context, profile)]
    untouched = profile.predict(UNTOUCHED)
    predictions = [profile.predict(schedule) for schedule in fitting] or [untouched]
    dense = untouched.images_per_s
    seconds = [spec.data.search_images / prediction.images_per_s for prediction in predictions]
    speedups = [prediction.speedup for prediction in predictions]
    trial_s = min(seconds), statistics.median(seconds), max(seconds)
    gflops = {name: context.flops(schedule) / 1e9 for name, schedule in _named(context)}
    return Forecast(
        spec=spec,
        gflops=gflops,
        feasible=len(fitting) / DRAWS,
        speedups=(min(speedups), max(speedups)),
        dense_images_per_s=dense,
        prepare_s=clock.prepare_s(dense),
        trial_s=trial_s,
        confirm_s=_confirm_s(spec, dense, trial_s[1]),
        drift=clock.drift(),
        dtype=str(next(context.model.parameters()).dtype).removeprefix("torch."),
        hardware=context.hardware,
        batch_size=profile.batch_size,
        notes=tuple(notes),
    )


def _open(spec: StudySpec) -> tuple[EvaluationContext, list[str]]:
    """An context with what is on this machine, and what is not."""
    notes = []
    weights = spec.backbone.weights
    if weights == "pretrained" and folder_of(spec.backbone.name) is None:
        notes.append("weights: random ones are timed, the hub is not asked")
        weights = "random"
    elif weights not in WEIGHTS and not Path(weights).exists():
        notes.append(f"weights: {weights} is not on this machine, random ones are timed")
        weights = "random"
    device = choose_device("cpu" if spec.deployed else spec.runtime.device)
    backbone = load_backbone(spec.backbone.name, weights, **spec.backbone.loading)
    if weights != spec.backbone.weights and not backbone.num_classes:
        notes.append(f"classifier: {spec.backbone.name} has none of its own, the weights must bring it")
    if spec.data.path is not None and not Path(spec.data.path).exists():
        notes.append(f"images: {spec.data.path} is not on this machine")
    feasibility.check_source(spec, backbone)
    if spec.deployed is not None:
        where = f"{RUNTIMES[spec.deployed.runtime].title} at {spec.deployed.precision}"
        notes.append(f"speed: taken in torch here; the study takes its own in {where}")
    none = np.arange(0)  # a dry run never looks at an image
    source = LoadedImages(np.empty((0, *backbone.family.image_shape), np.uint8), Classes(None, "none"), "none")
    images = Images(source, none, none, False, torch.zeros(1), torch.ones(1))
    return EvaluationContext(for_backbone(spec, backbone.family), backbone, images, device), notes


def _confirm_s(spec: StudySpec, dense: float, trial_s: float) -> float:
    """Of each finalist its images, and a timing in pairs with the dense model, the first of which warms up."""
    data = spec.data
    pruned = data.search_images / trial_s  # images/s
    timing_s = (REPEATS + 1) * spec.runtime.batch_size * (1 / dense + 1 / pruned)
    return FINALISTS * (data.confirm_images / pruned + timing_s)


class _Clock:
    """What is timed for a forecast, on noise."""

    def __init__(self, context: EvaluationContext) -> None:
        self._context = context
        spec, family = context.spec, context.backbone.family
        dtype = spec.runtime.dtype
        self._chooses = dtype == "auto" and bfloat16_is_fast(context.device) and spec.deployed is None
        context.set_model("bfloat16" if self._chooses else "float32" if dtype == "auto" else dtype)
        noise = torch.randn(1, *family.image_shape, generator=torch.Generator().manual_seed(0))
        self._image = noise.to(context.device)
        self._dense_s = _seconds(context, self._image)
        self._size = min(spec.runtime.batch_size, max(1, int(BATCH_S / self._dense_s)))
        self._kinds = stage_kinds(spec.space.methods, spec.space.options, context.model)

    def profile(self) -> LatencyProfile:
        """A short one, of batches that take about BATCH_S each; one kind of stage stands for all."""
        context, family = self._context, self._context.backbone.family
        least = smallest(context.spec.space, family.depth, context.flops).plan(family.tokens)
        fewest = least[-1].kept if least else family.tokens
        images = self._image.repeat(self._size, 1, 1, 1)
        profile = measure_profile(context.model, images, self._kinds[:1], fewest, points=PROFILE_POINTS, turns=SHORT)
        (cost,) = profile.stages.values()
        return replace(profile, stages={kind.name: cost for kind in self._kinds})

    def prepare_s(self, dense: float) -> float:
        """What a launch does before its first trial. dense: images/s.

        A profile's round takes as long as so many passes of the dense model; a number format is chosen by float32's
        answers beside bfloat16's, at about half the speed.
        """
        spec = self._context.spec
        batch = spec.runtime.batch_size
        pass_s = self._dense_s * min(batch, max(MIN_IMAGES, int(PASS_S / self._dense_s)))
        whole_s = (BLOCKS_PASSES + WHOLE_PASSES * len(self._kinds)) * pass_s
        parts_s = (GRID_PASSES + KIND_PASSES * len(self._kinds)) * pass_s
        rounds = ((TURNS, whole_s), (TURNS.of_parts(), parts_s)) if spec.objectives.throughput != "measured" else ()
        profile_s = sum(
            (1 + min(turns.most, max(turns.least, math.ceil(turns.enough_s / one_s)))) * one_s
            for turns, one_s in rounds
        )
        checked = max(CHECKED_BATCHES * batch, CHECKED_IMAGES) if self._chooses else 0
        return profile_s + 3 * checked / dense + spec.data.search_images / dense

    def drift(self) -> float:
        """By how much the dense model's speed changed since the start."""
        now = _seconds(self._context, self._image)
        return max(now, self._dense_s) / min(now, self._dense_s) - 1


@torch.inference_mode()
def _seconds(context: EvaluationContext, image: torch.Tensor) -> float:
    """Of the dense model for one image, the fastest of a few: what else the machine does can only add time."""

    def run() -> None:
        context.model(image)
        synchronize(context.device)

    return min(timeit.repeat(run, number=1, repeat=FIRST_LOOKS))


def _named(context: EvaluationContext) -> list[tuple[str, Schedule]]:
    space, depth = context.spec.space, context.backbone.family.depth
    cheapest = smallest(space, depth, context.flops)
    first, *others = baselines(space, depth, context.backbone.family.tokens)
    return [first, ("cheapest", cheapest), *others]


def _draw(context: EvaluationContext) -> list[Schedule]:
    """Schedules drawn uniformly from the space's box, as a random search would."""
    space, depth = context.spec.space, context.backbone.family.depth
    box, random = distributions(space, depth), np.random.default_rng(context.spec.sampler.seed)
    draws = ({name: _value(distribution, random) for name, distribution in box.items()} for _ in range(DRAWS))
    return [to_schedule(params, space, depth) for params in draws]


def _value(distribution: BaseDistribution, random: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(random.integers(len(distribution.choices)))]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if isinstance(distribution, IntDistribution):
        return int(random.integers(distribution.low, distribution.high + 1))
    return float(random.uniform(distribution.low, distribution.high))


def _fits(schedule: Schedule, context: EvaluationContext, profile: LatencyProfile) -> bool:
    """Whether it keeps the limits that need no image."""
    budget, family = context.spec.budget, context.backbone.family
    try:
        schedule.plan(family.tokens, family.depth)
        if budget.max_gflops is not None and context.flops(schedule) > 1e9 * budget.max_gflops:
            return False
        return budget.min_speedup is None or profile.predict(schedule).speedup >= budget.min_speedup
    except ScheduleError:
        return False
