"""The laws of `TokenMethod` (stated in pruning/methods/base.py), on every row of METHODS.

Knows the table alone: a method added to it is tested here without a line more.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from pruning.flops import count_flops, trace_flops
from pruning.methods import METHODS, Option, load_method
from pruning.methods.base import Signals, TokenMethod
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.stage import STAGE_FIELDS, Stage, StagePlan
from pruning.tokens import Tokens

B, H, n, d = 4, 3, 16, 8
STAGES = (Stage(0, 0.75), Stage(1, 0.5))


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
    entering, seeds = torch.randn(B, prefix + n, H * d), torch.arange(B) * 977
    return Signals(attention, query, key, value, entering, prefix, True, seeds, attention[:, :, 0])


def plans(method: str, options: dict[str, Any]) -> list[StagePlan]:
    """Stages of many kinds for n tokens, each alone."""
    stages = [Stage(0, keep, 3, 0.6, share) for keep in (0.07, 0.5, 0.75, 15 / 16) for share in (0.0, 0.3, 0.5, 1.0)]
    if not options.get("importance", True):
        stages = [stage for stage in stages if stage.keep >= 0.5]
    schedules = [Schedule([stage], method, options) for stage in stages]
    return [schedule.plan(n)[0] for schedule in schedules]


def some(signals: Signals, images: list[int]) -> Signals:
    """The same signals for some images of the batch."""
    tensors = {
        field.name: value[images]
        for field in dataclasses.fields(signals)
        if isinstance(value := getattr(signals, field.name), torch.Tensor)
    }
    return dataclasses.replace(signals, **tensors)


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
def test_prefix_tokens_pass_unchanged_in_front(method: str, options: dict[str, Any]) -> None:
    signals = make_signals(prefix=3)
    tokens = Tokens(torch.randn(B, 3 + n, H * d))
    for plan in plans(method, options):
        left = load_method(method, options).reduce(tokens, signals, plan)
        assert left.values.shape == (B, 3 + plan.kept, H * d)
        assert left.values[:, :3].equal(tokens.values[:, :3])


@every_case
def test_an_image_keeps_the_same_tokens_in_any_batch(method: str, options: dict[str, Any]) -> None:
    signals, implementation = make_signals(prefix=1), load_method(method, options)
    for plan in plans(method, options):
        together = implementation.select(signals, plan)
        assert implementation.select(some(signals, [3, 0]), plan).equal(together[[3, 0]])
        assert implementation.select(some(signals, [2]), plan).equal(together[[2]])


@every_case
def test_only_what_it_reads_is_looked_at(method: str, options: dict[str, Any]) -> None:
    implementation, signals = load_method(method, options), make_signals(prefix=1)
    unread = {"nothing": {"attention": None, "class_row": None}, "class_row": {"attention": None}, "attention": {}}
    without = dataclasses.replace(signals, **unread[implementation.reads])
    for plan in plans(method, options):
        assert implementation.select(without, plan).equal(implementation.select(signals, plan))


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


@every_method
def test_stage_fields_are_those_that_change_the_plan(method: str) -> None:
    """`stage_fields` names what a search has to try: the others leave the key alone."""
    base = {"block": 1, "keep": 0.5, "wpr_iterations": 5, "partition": 0.5, "similarity_share": 0.5}
    key = Schedule([Stage(**base)], method).key
    changed = {"wpr_iterations": 9, "partition": 0.6, "similarity_share": 0.7}
    differing = {
        name for name, value in changed.items() if Schedule([Stage(**base | {name: value})], method).key != key
    }
    assert differing == METHODS[method].stage_fields <= set(STAGE_FIELDS)


@every_method
def test_rows_describe_themselves(method: str) -> None:
    row = METHODS[method]
    assert row.summary
    for name, option in row.options.items():
        assert option.help
        assert option.check(name, option.default) == option.default
        assert not option.at_most or option.at_most in row.options


def test_the_table_loads_no_torch() -> None:
    code = "import sys, pruning.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
