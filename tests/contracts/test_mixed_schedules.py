"""Schedules whose stages have methods of their own: each does what it does alone, on what the one before left.

Knows the table alone: a method added to METHODS is drawn here without a line more.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pruning.flops import count_flops, trace_flops
from pruning.methods import METHODS, load_method
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from pruning.tokens import Tokens

DEPTH, PREFIX = 5, 3
SEEDS = range(2 * len(METHODS))
TOLERANCE = {"rtol": 0, "atol": 1e-4}
HEADS = {"token": {}, "mean": {"global_pool": "avg"}, "attention": {"global_pool": "map"}}
by_seed = pytest.mark.parametrize("seed", SEEDS)
both_savings = pytest.mark.parametrize("savings", [True, False], ids=["saving", "whole"])


def make_model(**changes: Any) -> VisionTransformer:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": DEPTH}
    model = VisionTransformer(num_classes=5, reg_tokens=2, **sizes | changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.requires_grad_(False).eval()


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def some_option(method: str, drawn: random.Random) -> dict[str, Any]:
    """One of the method's options, at another value than its default."""
    name, option = drawn.choice(sorted(METHODS[method].options.items()))
    if option.choices:
        return {name: drawn.choice([choice for choice in option.choices if choice != option.default])}
    if isinstance(option.default, bool):
        return {name: not option.default}
    return {name: option.low if name != "v_max" else option.high}


def mixed(seed: int, savings: bool = True) -> Schedule:
    """Three stages of unlike methods in the first blocks but the last; the first's is drawn in turn."""
    drawn = random.Random(seed)
    first = list(METHODS)[seed % len(METHODS)]
    methods = [first, *drawn.sample([name for name in METHODS if name != first], 2)]
    blocks = sorted(drawn.sample(range(DEPTH - 1), 3))
    stages = []
    for block, method in zip(blocks, methods, strict=True):
        options = some_option(method, drawn) if drawn.random() < 0.7 else {}
        if options.get("importance") is False:
            options = {}  # needs a partition that reaches all
        numbers = (drawn.uniform(0.6, 0.9), drawn.randint(1, 3), drawn.uniform(0.4, 0.7), drawn.choice([0.0, 0.5, 1.0]))
        stages.append(Stage(block, *numbers, method, options))
    return Schedule(stages, drawn.choice(list(METHODS)), exact_savings=savings)


def test_every_method_is_drawn_in_every_place() -> None:
    drawn = [mixed(seed).methods for seed in SEEDS]
    assert {methods[0] for methods in drawn} == set(METHODS)
    assert all(len(methods) == 3 for methods in drawn)


@by_seed
@both_savings
def test_flops_equal_the_trace(seed: int, savings: bool) -> None:
    model, schedule = make_model(), mixed(seed, savings)
    assert count_flops(model, schedule) == trace_flops(model, schedule)
    assert (count_flops(model, schedule) < count_flops(model, schedule, exact_savings=False)) == savings


@pytest.mark.parametrize("head", ["mean", "attention"])
@pytest.mark.parametrize("seed", range(3))
def test_flops_equal_the_trace_for_other_heads(seed: int, head: str) -> None:
    model = make_model(**HEADS[head])
    assert count_flops(model, mixed(seed)) == trace_flops(model, mixed(seed))


@by_seed
def test_each_stage_does_what_its_method_does_alone(seed: int) -> None:
    """Block by block, each stage by a model that knows this stage alone."""
    model, schedule = make_model(), mixed(seed)
    pruned = prune(model, schedule)
    seeds, plans = pruned.seeds(images()), {plan.block: plan for plan in pruned.plans}
    stages = {stage.block: schedule.method_of(stage) for stage in schedule.stages}
    tokens = Tokens(pruned.embed(images()))
    for block in range(DEPTH):
        alone = prune(model)
        if block in plans:
            tokens = alone.run_stage(block, tokens, plans[block], load_method(*stages[block]), seeds)
        else:
            tokens = alone.advance(tokens, block, block + 1)
    left = pruned.advance(Tokens(pruned.embed(images())), seeds=seeds)
    torch.testing.assert_close(left.values, tokens.values)
    assert left.places(PREFIX).equal(tokens.places(PREFIX))
    assert left.sizes is tokens.sizes is None or left.sizes.equal(tokens.sizes)
    assert left.size_exponent == tokens.size_exponent


@by_seed
@pytest.mark.parametrize("head", HEADS)
def test_an_image_has_the_same_logits_in_every_batch(seed: int, head: str) -> None:
    pruned, batch = prune(make_model(**HEADS[head]), mixed(seed)), images()
    together = pruned(batch)
    torch.testing.assert_close(torch.cat([pruned(image[None]) for image in batch]), together, **TOLERANCE)
    torch.testing.assert_close(pruned(batch.flip(0)), together.flip(0), **TOLERANCE)


@by_seed
def test_savings_change_no_logits(seed: int) -> None:
    model, batch = make_model(), images()
    saved, whole = prune(model, mixed(seed)), prune(model, mixed(seed), exact_savings=False)
    assert (saved.is_saving, whole.is_saving) == (True, False)
    torch.testing.assert_close(saved(batch), whole(batch), **TOLERANCE)


@by_seed
def test_logits_are_the_heads_of_the_tokens_left(seed: int) -> None:
    pruned, batch = prune(make_model(), mixed(seed)), images()
    seeds = pruned.seeds(batch)
    middle = pruned.advance(Tokens(pruned.embed(batch)), stop=2, seeds=seeds)
    torch.testing.assert_close(pruned.logits(middle, 2, seeds), pruned(batch), **TOLERANCE)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(METHODS, METHODS)))
def test_sizes_are_kept_by_later_stages(first: str, second: str) -> None:
    """What an earlier stage merged is known behind a later one of any method, which leaves it alone or adds to it."""
    stages = [Stage(0, 0.75, 1, 0.5, 1.0, first), Stage(1, 0.75, 1, 0.5, 0.0, second)]
    pruned = prune(make_model(), Schedule(stages))
    seeds = pruned.seeds(images())
    before = pruned.advance(Tokens(pruned.embed(images())), stop=1, seeds=seeds)
    after = pruned.advance(before, 1, 2, seeds)
    sizes = [load_method(name, {}).leaves_sizes(plan) for name, plan in zip((first, second), pruned.plans, strict=True)]
    assert (before.sizes is not None) == sizes[0]
    assert (after.sizes is not None) == any(sizes)
    if before.sizes is None or after.sizes is None:
        return
    for image in range(3):
        was = dict(zip(before.places(PREFIX)[image].tolist(), before.sizes[image, PREFIX:].tolist(), strict=True))
        now = dict(zip(after.places(PREFIX)[image].tolist(), after.sizes[image, PREFIX:].tolist(), strict=True))
        assert set(now) < set(was)
        assert all(now[place] >= was[place] for place in now)
        if not sizes[1]:
            assert now == {place: was[place] for place in now}
        assert sum(now.values()) <= sum(was.values()) <= 16
    assert before.sizes.max() > 1 or first == "ppt"  # where it prunes nobody takes in another


@by_seed
def test_a_schedule_is_read_back_as_it_runs(seed: int) -> None:
    """The same logits to the bit, and the same key."""
    schedule, model = mixed(seed), make_model()
    for twin in (Schedule.from_dict(schedule.to_dict()), Schedule.from_yaml(schedule.to_yaml())):
        assert twin == schedule
        assert twin.key_for(16) == schedule.key_for(16)
        assert prune(model, twin)(images()).equal(prune(model, schedule)(images()))


def test_keys_tell_them_apart() -> None:
    keys = {schedule.key_for(16) for seed in SEEDS for schedule in (mixed(seed), mixed(seed, savings=False))}
    assert len(keys) == 2 * len(SEEDS)
