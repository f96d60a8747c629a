"""The FLOP counter: the method's table to the integer, and a closed form that the trace confirms.

That it does so for every method and option is an invariant of the methods: see tests/contracts/test_methods.py.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.errors import ScheduleError, UncountedOperator, UnsupportedBackbone
from pruning.flops import count_flops, trace_flops
from pruning.methods import METHODS
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage

MakeViT = Callable[..., nn.Module]
PAPER = (Stage(2, 0.9), Stage(5, 0.8), Stage(8, 0.7))
HALF = (Stage(0, 0.75), Stage(1, 0.5))
TABLE = [
    ("deit_small_patch16_224", (), 4_608_338_304),
    ("deit_small_patch16_224", PAPER, 3_554_802_816),
    ("deit_tiny_patch16_224", PAPER, 962_559_552),
    ("deit_base_patch16_224", (), 17_582_740_224),
]


@functools.cache
def meta(name: str) -> nn.Module:
    """Shapes without weights: all that the closed form reads."""
    model: nn.Module = timm.create_model(name, device="meta")
    return model


@pytest.mark.parametrize(("name", "stages", "flops"), TABLE)
@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_the_method(name: str, stages: tuple[Stage, ...], flops: int, method: str) -> None:
    """Counted by the authors' early code with fvcore: no iterations, no matching, and MLPs before tokens leave."""
    published = {"drop": "block-end", "unmerge": False}
    schedule = Schedule(stages, method, {key: published[key] for key in METHODS[method].options if key in published})
    assert count_flops(meta(name), schedule, stage_costs=False, exact_savings=False) == flops


@pytest.mark.parametrize(("name", "stages", "flops"), TABLE)
def test_the_table_of_the_method_traced(name: str, stages: tuple[Stage, ...], flops: int) -> None:
    """`random` costs nothing itself, so that its trace is the table's number too."""
    model = copy.deepcopy(meta(name)).to_empty(device="cpu")  # no weights drawn: they cost seconds
    assert trace_flops(model, Schedule(stages, "random", exact_savings=False)) == flops


def test_votes_and_matching_are_what_the_switch_leaves_out() -> None:
    """H N^2 an iteration: 1 for I', 5 for I, 1 for the surviving mass; |A| |B| D for matching 98 with 98 tokens, and
    10 that go with 176 that stay.

    From the class token alone, the first iteration is its row of the attention: none for I', 4 for I.
    """
    model = meta("deit_tiny_patch16_224")
    matching = (98 * 98 + 10 * 176) * 192
    for personalized, iterations, ranking in (
        (False, 5, 7 * 3 * 197**2),
        (True, 5, 6 * 3 * 197**2),
        (True, 1, 3 * 197 * 64),
    ):
        schedule = Schedule([Stage(2, 0.9, iterations, 0.5, 0.5)], options={"personalized": personalized})
        costs = count_flops(model, schedule) - count_flops(model, schedule, stage_costs=False)
        assert costs == ranking + matching


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("options", [{"split": "random", "head_filter": True}, {"feature": "input"}], ids=str)
def test_closed_form_equals_the_trace_for_every_mixture(
    make_vit: MakeViT, share: float, options: dict[str, Any]
) -> None:
    schedule = Schedule([Stage(0, 0.5, 4, 0.5, share)], options=options)
    assert count_flops(make_vit(), schedule) == trace_flops(make_vit(), schedule)


def test_closed_form_equals_the_trace_for_every_trait(any_vit: nn.Module) -> None:
    assert count_flops(any_vit, Schedule(HALF)) == trace_flops(any_vit, Schedule(HALF))
    assert count_flops(any_vit) == trace_flops(any_vit)


@pytest.mark.parametrize("overrides", [{"num_classes": 0}, {"in_chans": 1, "img_size": (16, 32)}, {"mlp_ratio": 2.5}])
def test_closed_form_equals_the_trace_for_other_sizes(make_vit: MakeViT, overrides: dict[str, Any]) -> None:
    model = make_vit(**overrides)
    assert count_flops(model, Schedule(HALF)) == trace_flops(model, Schedule(HALF))


def test_fused_and_opened_attention_cost_the_same(make_vit: MakeViT) -> None:
    """The only difference of an opened block is its stage: keeping 15 of 16 at random costs what the tokens cost."""
    model = make_vit()
    schedule = Schedule([Stage(0, 15 / 16)], "random")
    blocks = [trace_flops(model, exact_savings=False), trace_flops(model, schedule, exact_savings=False)]
    per_token = 12 * 24 * 24 + 2 * 5 * 24  # qkv, proj, MLP: 12 D^2; two norms: 5 D each
    attention = 2 * 24 * (17**2 - 16**2)
    assert blocks[0] - blocks[1] == 2 * (per_token + attention) + 5 * 24


def test_a_pruned_model_counts_its_own_schedule_unless_told(make_vit: MakeViT) -> None:
    model = prune(make_vit(), Schedule(HALF))
    own, dense = count_flops(make_vit(), Schedule(HALF)), count_flops(make_vit())
    assert (count_flops(model), trace_flops(model)) == (own, own)
    assert (count_flops(model, Schedule()), trace_flops(model, Schedule())) == (dense, dense)
    assert model.schedule == Schedule(HALF)


def test_counting_leaves_the_model_in_training_as_it_was(make_vit: MakeViT) -> None:
    model = make_vit("dropout").train()
    assert trace_flops(model, Schedule(HALF)) == count_flops(model, Schedule(HALF))
    assert all(module.training for module in model.modules())


keeps = st.floats(0.3, 1)


@given(st.sampled_from(sorted(METHODS)), keeps, keeps, keeps)
def test_flops_never_rise_when_a_stage_keeps_less(method: str, low: float, high: float, later: float) -> None:
    low, high = sorted((max(low, METHODS[method].least_keep), max(high, METHODS[method].least_keep)))
    later = max(later, METHODS[method].least_keep)
    fewer, more = (
        count_flops(
            meta("deit_tiny_patch16_224"), Schedule([Stage(1, keep), Stage(4, later)], method), stage_costs=False
        )
        for keep in (low, high)
    )
    assert fewer <= more
    assert (fewer < more) == (int(196 * low) < int(196 * high))


@pytest.mark.parametrize(
    ("name", "multiply"),
    [
        ("aten::mv", lambda x: x + torch.mv(x[0, 0, :1].expand(8, -1).T, x[0, 0, 0, :8].flatten()[:8]).sum()),
        ("aten::outer", lambda x: x + torch.outer(x[0, 0, 0], x[0, 0, 0]).sum()),
        ("aten::baddbmm", lambda x: torch.baddbmm(x[0], x[0], x[0])[None]),
        ("aten::cdist", lambda x: x + torch.cdist(x[0], x[0]).sum()),
        ("aten::prod", lambda x: x.prod() + x),
        ("aten::fft_fft", lambda x: torch.fft.fft(x).real),
    ],
)
def test_operators_that_multiply_without_a_rule_are_refused(
    make_vit: MakeViT, name: str, multiply: Callable[[Tensor], Tensor]
) -> None:
    model: Any = make_vit()
    model.patch_embed.register_forward_pre_hook(lambda _, inputs: multiply(inputs[0]))
    with pytest.raises(
        UncountedOperator, match=rf"operators .*{name}.* have no FLOP rule; add one to pruning/flops.py"
    ):
        trace_flops(model)


def test_modules_without_a_rule_are_refused_by_the_closed_form_and_the_trace(make_vit: MakeViT) -> None:
    model: Any = make_vit()
    model.blocks[1].mlp.act = nn.PReLU()
    with pytest.raises(UncountedOperator, match="module PReLU has no FLOP rule"):
        count_flops(model)
    with pytest.raises(UncountedOperator, match="aten::prelu"):
        trace_flops(model)


@pytest.mark.parametrize("count", [count_flops, trace_flops])
def test_what_cannot_be_pruned_cannot_be_counted(make_vit: MakeViT, count: Callable[..., int]) -> None:
    with pytest.raises(UnsupportedBackbone):
        count(nn.Linear(2, 2))
    with pytest.raises(ScheduleError):
        count(make_vit(), Schedule([Stage(2, 0.5)]))
