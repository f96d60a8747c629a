"""The invariants of `TokenMethod` (stated in pruning/methods/base.py), on every row of METHODS.

Knows the table alone: a method added to it is tested here without a line more.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from pruning.flops import count_flops, trace_flops
from pruning.methods import METHODS, Option, load_method
from pruning.methods.base import Signals, TokenMethod
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.selection import gather
from pruning.stage import Stage, StagePlan
from pruning.tokens import Members, Merge, Tokens

B, H, n, d = 4, 3, 16, 8
STAGES = (Stage(0, 0.75), Stage(1, 0.5))
Record = TypeVar("Record", Signals, Tokens, Members, Merge)
FIELDS = [field.name for field in dataclasses.fields(Tokens)]


def other_values(option: Option) -> list[Any]:
    """Values besides the default, from the option's own range."""
    if option.choices:
        return [choice for choice in option.choices if choice != option.default]
    if isinstance(option.default, bool):
        return [not option.default]
    return [value for value in (option.low, min(option.high, option.low + 1)) if value != option.default]


def allowed(method: str, name: str, value: Any) -> dict[str, Any]:
    """The option set, with the bound of `at_most` moved out of its way."""
    options = {name: value}
    for low, option in METHODS[method].options.items():
        if option.at_most == name:
            options[low] = min(value, option.default)
    bound = METHODS[method].options[name].at_most
    return options | {bound: METHODS[method].options[bound].high} if bound else options


CASES = [pytest.param(method, {}, id=method) for method in METHODS] + [
    pytest.param(method, allowed(method, name, value), id=f"{method}-{name}-{value}")
    for method, row in METHODS.items()
    for name, option in row.options.items()
    for value in other_values(option)
]
every_case = pytest.mark.parametrize(("method", "options"), CASES)
behind_a_stage = pytest.mark.parametrize("behind", [False, True], ids=["first", "behind another stage"])
every_method = pytest.mark.parametrize("method", METHODS)


def make_model(**changes: Any) -> VisionTransformer:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": H * d, "num_heads": H, "depth": 4}
    model = VisionTransformer(num_classes=5, reg_tokens=2, **sizes | changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.requires_grad_(False).eval()


def make_signals(prefix: int) -> Signals:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(B, H, prefix + n, d, generator=generator) for _ in range(3))
    attention = (query @ key.transpose(-1, -2)).softmax(-1)
    entering, leaving = (torch.randn(B, prefix + n, H * d, generator=generator) for _ in range(2))
    seeds = torch.arange(B) * 977
    return Signals(attention, query, key, value, entering, leaving, prefix, True, 4, seeds, attention[:, :, 0])


def make_tokens(prefix: int, behind: bool) -> Tokens:
    """What a block gives; `behind` an earlier stage that left every other place, and tokens of many sizes."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(B, prefix + n, H * d, generator=generator)
    if not behind:
        return Tokens(values)
    sizes = torch.randint(1, 5, (B, prefix + n), generator=generator).float()
    sizes[:, :prefix] = 1
    return Tokens(values, torch.arange(1, 2 * n, 2).expand(B, n), sizes)


def plans(method: str, options: dict[str, Any]) -> list[StagePlan]:
    """Stages of many kinds for n tokens, each alone."""
    keeps = [keep for keep in (0.07, 0.5, 0.75, 15 / 16) if keep >= METHODS[method].least_keep]
    stages = [Stage(0, keep, 3, 0.6, share) for keep in keeps for share in (0.0, 0.3, 0.5, 1.0)]
    if not options.get("importance", True):
        stages = [stage for stage in stages if stage.keep >= 0.5]
    schedules = [Schedule([stage], method, options) for stage in stages]
    return [schedule.plan(n)[0] for schedule in schedules]


def dropped(method: str, options: dict[str, Any], plan: StagePlan) -> int | None:
    """How many tokens no other takes in, not counting those that these had taken in; None if images differ in it."""
    if method == "ppt":
        return None
    everything = METHODS[method].fill_options(method, options)
    similar = everything.get("similarity", "merge") != "merge"
    unimportant = everything.get("unimportant", "drop") != "merge"
    return (plan.similar if similar else 0) + (plan.unimportant if unimportant else 0)


def some(record: Record, images: list[int]) -> Record:
    """The same signals or tokens for some images of the batch."""

    def of_images(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[images]
        if isinstance(value, tuple):
            return tuple(map(of_images, value))
        return some(value, images) if isinstance(value, Members | Merge) else value

    values = {field.name: of_images(getattr(record, field.name)) for field in dataclasses.fields(record)}
    return dataclasses.replace(record, **values)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.equal(right)
    if isinstance(left, Members | Merge):
        return all(same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left))
    return all(map(same, left, right)) if isinstance(left, tuple) and left else left is right


@every_case
def test_k_distinct_patch_tokens_stay_in_order(method: str, options: dict[str, Any]) -> None:
    signals = make_signals(prefix=3)
    for plan in plans(method, options):
        kept = load_method(method, options).select(signals, plan)
        assert kept.shape == (B, plan.kept)
        assert (kept >= 0).all()
        assert (kept < n).all()
        assert (kept.diff(dim=1) > 0).all()


@every_case
@behind_a_stage
def test_prefix_tokens_pass_unchanged_in_front(method: str, options: dict[str, Any], behind: bool) -> None:
    signals, tokens = make_signals(prefix=3), make_tokens(3, behind)
    for plan in plans(method, options):
        left = load_method(method, options).reduce(tokens, signals, plan)
        assert left.values.shape == (B, 3 + plan.kept, H * d)
        assert left.values[:, :3].equal(tokens.values[:, :3])
        assert left.sizes is None or left.sizes[:, :3].eq(1).all()


@every_case
@behind_a_stage
def test_what_is_left_stands_where_select_says(method: str, options: dict[str, Any], behind: bool) -> None:
    signals, tokens = make_signals(prefix=1), make_tokens(1, behind)
    for plan in plans(method, options):
        implementation = load_method(method, options)
        left = implementation.reduce(tokens, signals, plan)
        assert left.places(1).equal(tokens.places(1).gather(1, implementation.select(signals, plan)))


@every_case
@behind_a_stage
def test_sizes_are_all_there(method: str, options: dict[str, Any], behind: bool) -> None:
    """What lives on in another is in the sum still; what is dropped has left it, each with its size."""
    signals, tokens = make_signals(prefix=1), make_tokens(1, behind)
    for plan in plans(method, options):
        implementation = load_method(method, options)
        left, kept = implementation.reduce(tokens, signals, plan), implementation.select(signals, plan)
        before = torch.ones(B, 1 + n) if tokens.sizes is None else tokens.sizes
        if not implementation.leaves_sizes(plan):
            assert (
                left.sizes is None if tokens.sizes is None else left.sizes[:, 1:].equal(before[:, 1:].gather(1, kept))
            )
            continue
        assert left.sizes is not None
        assert left.sizes.dtype == torch.float32
        assert (left.sizes[:, 1:] >= before[:, 1:].gather(1, kept)).all()
        gone, count = (before.sum(1) - left.sizes.sum(1)).tolist(), dropped(method, options, plan)
        assert gone == [0] * B if count == 0 else min(gone) >= (count or 0)


@every_case
def test_tokens_in_pairs_are_the_mean_of_what_they_stand_for(method: str, options: dict[str, Any]) -> None:
    """Where nobody is dropped the mean over all tokens by size is what it was; and none changes that none joins."""
    signals, tokens = make_signals(prefix=1), make_tokens(1, True)
    assert tokens.sizes is not None
    for plan in plans(method, options):
        implementation = load_method(method, options)
        left, kept = implementation.reduce(tokens, signals, plan), implementation.select(signals, plan)
        assert left.sizes is not None
        by_size = options.get("weight", "size") == "size" and implementation.merged_norm == "own"
        if implementation.leaves_sizes(plan) and by_size and dropped(method, options, plan) == 0:
            sums = [(each.values * each.sizes[..., None]).sum(1) for each in (tokens, left) if each.sizes is not None]
            torch.testing.assert_close(*sums)
        grown = left.sizes[:, 1:] > tokens.sizes[:, 1:].gather(1, kept)  # [B, K]
        change = (left.values[:, 1:] - gather(tokens.values[:, 1:], kept)).abs().amax(-1)
        fused = 1 if method == "hatp" or options.get("fuse") else 0  # the one token that stands for those dropped
        assert ((change > 1e-6) & ~grown).sum(1).max() <= fused


@every_case
def test_an_image_keeps_the_same_tokens_in_any_batch(method: str, options: dict[str, Any]) -> None:
    signals, implementation = make_signals(prefix=1), load_method(method, options)
    tokens = make_tokens(1, True)
    for plan in plans(method, options):
        together = implementation.select(signals, plan)
        left = implementation.reduce(tokens, signals, plan)
        for images in ([3, 0], [2]):
            assert implementation.select(some(signals, images), plan).equal(together[images])
            apart = implementation.reduce(some(tokens, images), some(signals, images), plan)
            assert all(same(getattr(apart, name), getattr(some(left, images), name)) for name in FIELDS)


@every_case
def test_only_what_it_reads_is_looked_at(method: str, options: dict[str, Any]) -> None:
    implementation, signals = load_method(method, options), make_signals(prefix=1)
    unread = {"nothing": {"attention": None, "class_row": None}, "class_row": {"attention": None}, "attention": {}}
    for plan in plans(method, options):
        without = dataclasses.replace(signals, **unread[implementation.reads_for(plan, class_token=True)])
        assert implementation.select(without, plan).equal(implementation.select(signals, plan))
        left = [implementation.reduce(make_tokens(1, True), each, plan).values for each in (without, signals)]
        assert left[0].equal(left[1])


@every_case
def test_a_stage_in_chunks_gives_what_it_gives_at_once(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are joined with their places and sizes: the second stage starts from those."""
    vit, images = prune(make_model(), Schedule(STAGES, method, options)), torch.randn(3, 3, 32, 32)
    seeds = vit.seeds(images)
    at_once = vit.advance(Tokens(vit.embed(images)), seeds=seeds)
    monkeypatch.setattr(PrunedViT, "_images_at_once", lambda self, tokens, reads: 2)
    in_chunks = vit.advance(Tokens(vit.embed(images)), seeds=seeds)
    assert in_chunks.places(3).equal(at_once.places(3))
    assert same(in_chunks.sizes, at_once.sizes)
    torch.testing.assert_close(in_chunks.values, at_once.values, atol=1e-5, rtol=1e-4)


@every_case
def test_signals_are_read_only(method: str, options: dict[str, Any]) -> None:
    signals = make_signals(prefix=1)
    before = some(signals, list(range(B)))  # indexing copies
    for plan in plans(method, options):
        load_method(method, options).select(signals, plan)
    for field in dataclasses.fields(signals):
        value = getattr(signals, field.name)
        assert not isinstance(value, torch.Tensor) or value.equal(getattr(before, field.name))


@every_case
def test_flops_equal_the_trace(method: str, options: dict[str, Any]) -> None:
    model = make_model()
    stages = [Stage(0, 0.75, 3, 0.6, 0.5), Stage(2, 0.6, 2, 0.5, 1.0)]
    schedule = Schedule(stages, method, options)
    assert count_flops(model, schedule) == trace_flops(model, schedule)


@every_method
def test_a_model_with_other_head_widths_costs_what_is_traced(method: str) -> None:
    model = make_model(embed_dim=32, num_heads=2)
    assert count_flops(model, Schedule(STAGES, method)) == trace_flops(model, Schedule(STAGES, method))


@every_case
def test_runs_repeat_exactly(method: str, options: dict[str, Any]) -> None:
    model, images = make_model(), torch.randn(2, 3, 32, 32)
    schedule = Schedule(STAGES, method, options)
    assert prune(model, schedule)(images).equal(prune(model, schedule)(images))


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(method: str, dtype: torch.dtype) -> None:
    logits = prune(make_model(), Schedule(STAGES, method)).to(dtype)(torch.randn(2, 3, 32, 32))
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_needing_a_class_token_is_said_truly() -> None:
    """Methods that say they need none choose by something else: without class token they run."""
    model = make_model(class_token=False, global_pool="avg")
    for method in METHODS:
        if not load_method(method, {}).needs_class_token:
            assert prune(model, Schedule(STAGES, method))(torch.randn(2, 3, 32, 32)).isfinite().all()


@every_method
def test_drawing_is_said_truly(method: str) -> None:
    """Methods that say they draw nothing get no seeds and need none."""
    implementation = load_method(method, {})
    assert isinstance(implementation, TokenMethod)
    if not implementation.draws:
        seedless = dataclasses.replace(make_signals(1), seeds=None)
        for plan in plans(method, {}):
            implementation.select(seedless, plan)
    else:
        assert PrunedViT(make_model(), Schedule(STAGES, method)).seeds(torch.ones(1, 3, 32, 32)) is not None
