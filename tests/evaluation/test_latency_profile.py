"""The latency profile against a naive sum over blocks, and a real one of the demo backbone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage, StagePlan
from search.evaluation import latency_profiler
from search.evaluation.data.splits import Split
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.latency_profiler import Turns, images_of_a_pass, measure_profile
from search.evaluation.profile_cases import DENSE, StageKind, stage_kinds, typical_schedule

# linear in tokens, so that every value between the grid's is known
ZERO = StageCost(opened=(1.0, 10.0), vote=(0.1, 1.0), similarity=(0.2, 2.0))
ROW = StageCost(opened=(0.3, 3.0), vote=(0.0, 0.0), similarity=(0.1, 1.0))
RANDOM = StageCost(opened=(0.5, 5.0), vote=(0.0, 0.0), similarity=(0.0, 0.0))
PROFILE = LatencyProfile(
    batch_size=8,
    depth=12,
    tokens=(10, 100),
    block=(2.0, 20.0),
    rest=3.0,
    stages={"zero-tprune": ZERO, "zero-tprune (class_row)": ROW, "random": RANDOM, "tome": RANDOM, "diffrate": ZERO},
    mlp=(1.2, 12.0),
    sized=(2.5, 25.0),
    last=(0.5, 5.0),
    seeds=4.0,
)


def naive_ms(schedule: Schedule) -> float:
    """Block by block: 0.08 ms a token for attention and 0.12 for its MLP, 0.05 more for tokens with sizes, and at a
    pruning block what its stage costs at the tokens entering it, with the MLP for those that are left. The last block
    takes 0.05 a token with exact savings; as much, in blocks 9 to 11, that what merged behind block 6 is read apart.
    Where anything is drawn at random, 4 ms once a pass."""
    plans = {plan.block: plan for plan in schedule.plan(100, 12)}
    stages = {stage.block: schedule.method_of(stage) for stage in schedule.stages}
    total, tokens, sized, members = 3.0, 100, False, 0
    if any(method == "random" or options.get("split") == "random" for method, options in stages.values()):
        total += 4.0
    for block in range(12):
        plan = plans.get(block)
        if block == 11 and schedule.exact_savings:
            return total + 0.05 * (members or tokens)
        method, options = stages.get(block, ("", {}))
        total += 0.05 * members if block >= 9 else 0.0
        total += 0.08 * tokens + (0.05 * tokens if sized else 0.0)
        total += 0.12 * (plan.kept if plan is not None and options["drop"] == "before-mlp" else tokens)
        if plan is None:
            continue
        total += stage_ms(method, options, plan)
        entering, tokens = tokens, plan.kept
        if method in ("tome", "diffrate", "zero-tprune") and (plan.similar or method == "zero-tprune"):
            merges = method != "zero-tprune" or "merge" in (options["similarity"], options["unimportant"])
            sized = options["proportional"] if merges else sized
            if merges:
                members = (members or entering) if options["unmerge"] and block >= 7 else 0
    return total


def stage_ms(method: str, options: Mapping[str, Any], plan: StagePlan) -> float:
    if method in ("random", "tome"):
        return 0.05 * plan.tokens
    if method == "zero-tprune" and options["personalized"] and plan.iterations <= 1:  # the class token's row alone
        return 0.03 * plan.tokens + (0.01 * plan.tokens if plan.similar else 0.0)
    return 0.1 * plan.tokens + plan.iterations * 0.01 * plan.tokens + (0.02 * plan.tokens if plan.similar else 0.0)


PAPER = {"similarity": "drop", "unimportant": "drop", "drop": "block-end", "personalized": False}
SCHEDULES = [
    UNTOUCHED,
    Schedule(),
    Schedule([Stage(0, 0.5)]),
    Schedule([Stage(10, 0.5, 30)]),
    Schedule([Stage(2, 0.9, 30), Stage(5, 0.8, 5), Stage(8, 0.7, 1)], options=PAPER, exact_savings=False),
    Schedule([Stage(2, 0.9, 30, 0.5, 0.0), Stage(3, 0.3, 7, 0.5, 1.0)]),  # without and with the similarity step
    Schedule([Stage(4, 0.5), Stage(5, 0.5)], "random"),
    Schedule([Stage(2, 0.7), Stage(6, 0.4)], "zero-tprune", {"drop": "block-end"}),
    Schedule([Stage(block, 0.9) for block in range(11)], "tome"),
    Schedule([Stage(3, 0.5), Stage(4, 0.6)], "tome", {"drop": "block-end", "proportional": False}),
    Schedule([Stage(2, 0.7, similarity_share=0.0), Stage(5, 0.6, similarity_share=0.5)], "diffrate"),
    Schedule([Stage(1, 0.8, method="tome"), Stage(3, 0.7), Stage(6, 0.5, method="random")]),  # sizes stay
    Schedule([Stage(2, 0.8), Stage(7, 0.5), Stage(8, 0.7, method="random"), Stage(10, 0.5)]),  # members, too
    Schedule([Stage(7, 0.5), Stage(8, 0.6, method="tome")], exact_savings=False),  # which forgets them
    Schedule([Stage(1, 0.8, method="tome"), Stage(3, 0.7, 9, options={"proportional": False})], "zero-tprune"),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_is_a_sum_over_blocks(schedule: Schedule) -> None:
    assert PROFILE.latency_ms(schedule) == pytest.approx(naive_ms(schedule))
    predicted = PROFILE.predict(schedule)
    assert predicted.speedup == pytest.approx(naive_ms(UNTOUCHED) / naive_ms(schedule))
    assert predicted.images_per_s == pytest.approx(8 * 1000 / naive_ms(schedule))
    assert predicted.how == "profiled"


def test_below_the_grid_it_stays_at_its_lowest() -> None:
    # 5 tokens after block 0, fewer than the grid's 10: each of 10 blocks takes 2 ms, the last 0.5; the seeds 4
    assert PROFILE.latency_ms(Schedule([Stage(0, 0.05)], "random")) == pytest.approx(4 + 3 + 20 + 5 + 10 * 2 + 0.5)


def test_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ScheduleError, match="at most 10 for a backbone of 12 blocks"):
        PROFILE.latency_ms(Schedule([Stage(11, 0.5)], "random"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_survives_json(schedule: Schedule) -> None:
    again = LatencyProfile.from_dict(json.loads(json.dumps(PROFILE.to_dict())))
    assert again == PROFILE
    assert again.latency_ms(schedule) == PROFILE.latency_ms(schedule)


def test_of_an_earlier_study_is_read_and_predicts_as_it_did() -> None:
    document = json.loads(json.dumps(PROFILE.to_dict()))
    for name in ("mlp", "sized", "last", "class_token"):
        del document[name]
    earlier = LatencyProfile.from_dict(document)
    for schedule in (UNTOUCHED, SCHEDULES[4]):
        assert earlier.latency_ms(schedule) == PROFILE.latency_ms(schedule)


def test_of_a_real_backbone(backbone: Backbone, split: Split) -> None:
    model = PrunedViT(backbone.model).eval()
    kinds = stage_kinds(tuple(METHODS), {}, model)
    found = measure_profile(model, split.batch(0, 4), kinds, fewest=20, turns=Turns(2, 2))
    assert (found.batch_size, found.depth, found.tokens[0], found.tokens[-1]) == (4, 12, 20, 196)
    assert list(found.tokens) == sorted(set(found.tokens))
    assert found.block[-1] > found.block[0] > 0
    assert set(found.stages) == {*METHODS, "zero-tprune (class_row)"}
    for cost in found.stages.values():
        assert min(*cost.opened, *cost.vote, *cost.similarity) >= 0
        assert len(cost.opened) == len(cost.vote) == len(cost.similarity) == len(found.tokens)
    assert max(found.stages["random"].vote) == 0
    assert len(found.mlp) == len(found.sized) == len(found.last) == len(found.tokens)
    assert 0 < found.mlp[0] < found.mlp[-1] < found.block[-1]
    assert found.sized[-1] > found.sized[0] > 0
    assert found.last[-1] < found.block[-1]
    assert found.predict(UNTOUCHED).speedup == 1.0
    assert found.predict(Schedule()).speedup > 1
    assert found.predict(Schedule([Stage(0, 0.15)], "random")).speedup > 1.5
    assert LatencyProfile.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_kinds_are_apart_by_what_they_open_of_the_attention(backbone: Backbone) -> None:
    model = PrunedViT(backbone.model).eval()

    def names(options: dict[str, Any]) -> list[str]:
        return [kind.name for kind in stage_kinds(("zero-tprune", "tome"), options, model)]

    assert names({}) == ["zero-tprune (class_row)", "zero-tprune", "tome"]
    assert names({"zero-tprune": {"personalized": [False]}}) == ["zero-tprune", "tome"]


def test_blocks_take_at_each_count_what_all_of_them_take_in_a_row() -> None:
    """And stages what they take in whole models: here one and a half times as long as by themselves."""
    kinds = [StageKind(name, name, {}, 1) for name in ("random", "hatp")]
    alone = replace(PROFILE, stages={"random": RANDOM, "hatp": RANDOM}, seeds=0.0)
    truth = replace(alone, block=(3.0, 28.0), mlp=(1.8, 16.8), sized=(3.75, 35.0), last=(0.75, 7.0))
    in_truth = replace(truth, stages={"random": RANDOM.times(1.5), "hatp": RANDOM.times(1.5)})
    took: dict[Any, float] = {("whole", 10): 12 * 3.0, ("whole", DENSE): 12 * 28.0 + 3.0}
    took |= {("whole", kind.name): in_truth.latency_ms(typical_schedule(kind, alone.tokens[-1], 12)) for kind in kinds}
    found = latency_profiler._scaled_to_whole_models(alone, kinds, took)
    for part in ("block", "mlp", "sized", "last"):
        assert getattr(found, part) == pytest.approx(getattr(truth, part))
    assert found.stages["random"].opened == pytest.approx((0.75, 7.5))
    schedule = Schedule([Stage(2, 0.7), Stage(6, 0.4)], "random")
    assert found.latency_ms(schedule) == pytest.approx(in_truth.latency_ms(schedule))
    single = latency_profiler._scaled_to_whole_models(alone, kinds[:1], took)  # nothing says that it was no accident
    assert single.stages["random"].opened == pytest.approx((0.625, 6.25))


@pytest.mark.parametrize("depth", [2, 6, 12, 24, 32])
@pytest.mark.parametrize("method", ["random", "zero-tprune", "tome"])
def test_typical_schedules_fit_whatever_a_study_is_allowed(method: str, depth: int) -> None:
    kind = StageKind(method, method, {}, 1)
    for tokens in (5, 9, 25, 50):
        plans = typical_schedule(kind, tokens, depth).plan(tokens, depth)
        assert 0 < plans[-1].kept < tokens
    blocks = [plan.block for plan in typical_schedule(kind, 196, depth).plan(196, depth)]
    assert blocks == list(range(depth - 1))


def test_stage_scales_that_disagree_say_little() -> None:
    def scale(*scales: float) -> float:
        return latency_profiler._shrunk(np.array(scales))

    assert scale(1.5) == 1.25  # it agrees with nothing
    assert scale(1.5, 1.5) == scale(1.5, 1.5, 1.5) == 1.5
    assert 1.35 < scale(1.4, 1.5, 1.6, 1.5, 1.45) < 1.5
    assert 1 < scale(0.2, 1.5, 3.0) < 1.1


def test_a_machine_that_slows_down_favours_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as fast in two rounds of five; and one pass of one case is disturbed besides."""
    now, passes = 0.0, 0
    slow = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]  # the first warms up
    seconds = {("a",): 0.1, ("b",): 0.3, ("c",): 0.2}

    def taking(each: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now, passes
            disturbed = 5.0 if passes == 13 else 1.0
            now += each * slow[passes // 3] * disturbed
            passes += 1

        return run

    monkeypatch.setattr(latency_profiler, "time", SimpleNamespace(perf_counter=lambda: now))
    cases = {case: taking(each) for case, each in seconds.items()}
    found = latency_profiler._take_turns(cases, torch.device("cpu"), Turns(5, 5))
    assert passes == 18
    assert found == pytest.approx({case: 1e3 * each for case, each in seconds.items()})


def test_a_slow_processor_takes_the_profile_with_few_images(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = PrunedViT(backbone.model).eval(), torch.zeros(64, 1, 28, 28)
    monkeypatch.setattr(latency_profiler, "PASS_S", 1e-6)
    assert images_of_a_pass(model, images) == latency_profiler.MIN_IMAGES
    assert images_of_a_pass(model, images[:3]) == 3
    monkeypatch.setattr(latency_profiler, "PASS_S", 1e6)
    assert images_of_a_pass(model, images) == 64
