"""`PrunedViT`: what it must leave as it is, and what a stage does to the tokens."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.errors import ScheduleError, UnsupportedBackbone
from pruning.methods import METHODS
from pruning.model import PrunedViT, check_untouched, prune
from pruning.schedule import Schedule
from pruning.selection import gather
from pruning.stage import Stage
from pruning.tokens import Tokens

MakeViT = Callable[..., nn.Module]
HALF = Schedule([Stage(0, 0.75), Stage(1, 0.5)], options={"drop": "block-end"})  # 16 -> 12 -> 6 patch tokens
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.mark.parametrize("schedule", [None, Schedule(), Schedule([Stage(0, 1.0), Stage(1, 1.0)])])
def test_nothing_dropped_is_the_untouched_model(any_vit: nn.Module, images: Tensor, schedule: Schedule | None) -> None:
    expected = any_vit(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(prune(any_vit, schedule)(images), expected, **TOLERANCE)


def test_opened_blocks_are_the_untouched_ones(any_vit: nn.Module) -> None:
    check_untouched(any_vit)


def test_a_model_that_computes_otherwise_is_found_out(make_vit: MakeViT) -> None:
    model: Any = make_vit()
    model.blocks[1].attn.scale *= 1.5  # fused attention reads no scale, opened attention does
    with pytest.raises(UnsupportedBackbone, match=r"within 0.0001 by its opened blocks, got a difference of"):
        check_untouched(model)


def test_a_model_with_a_forward_of_its_own_is_found_out(make_vit: MakeViT) -> None:
    model: Any = make_vit()
    head = model.forward_head
    model.forward = lambda images: 2 * head(model.forward_features(images))
    with pytest.raises(UnsupportedBackbone, match="by its driven blocks"):
        check_untouched(model)


def test_logits_that_are_no_numbers_are_found_out(make_vit: MakeViT) -> None:
    model: Any = make_vit()
    model.head.bias.data[0] = torch.nan
    with pytest.raises(UnsupportedBackbone, match="got a difference of nan"):
        check_untouched(model)


def watch(model: PrunedViT) -> list[Tensor]:
    """Tokens entering each block that follows block 0, as they come."""
    seen: list[Tensor] = []
    for index in range(model.family.depth):
        norm = model.backbone.get_submodule(f"blocks.{index}.norm1")
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_each_stage_leaves_the_planned_tokens(any_vit: nn.Module, images: Tensor) -> None:
    model = prune(any_vit, Schedule(HALF.stages, HALF.method, {**HALF.options, "unmerge": False}))
    seen = watch(model)
    logits = model(images)
    prefix = model.family.prefix
    assert [tokens.shape[1] - prefix for tokens in seen] == [16, 12, 6]
    assert [(p.block, p.kept) for p in model.plans] == [(0, 12), (1, 6)]
    assert logits.shape == (3, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_tokens_left_are_tokens_of_the_dense_block_in_order(make_vit: MakeViT, images: Tensor, method: str) -> None:
    """Prefix tokens in front and untouched; of the patch tokens K, in their order, changed only where others joined."""
    model = prune(make_vit("registers"), Schedule([Stage(0, 0.5)], method, {"drop": "block-end"}))
    entering = model.embed(images)
    dense = model.backbone.get_submodule("blocks.0")(entering)
    left = model.advance(Tokens(entering), 0, 1, model.seeds(images))
    torch.testing.assert_close(left.values[:, :5], dense[:, :5], **TOLERANCE)
    places = left.places(5)
    assert places.shape == (3, 8)
    assert (places.diff(dim=1) > 0).all()
    changed = (left.values[:, 5:] - gather(dense[:, 5:], places)).abs().amax(-1) > 1e-3
    if left.sizes is not None:
        assert changed.equal(left.sizes[:, 5:] > 1)
    else:
        assert (changed.sum(1) == (method == "hatp")).all()  # its mean token


def test_pruned_logits_follow_from_the_tokens_left(make_vit: MakeViT, images: Tensor) -> None:
    """Blocks after a stage see the kept tokens and nothing else."""
    backbone: Any = make_vit("registers")
    model = prune(backbone, Schedule([Stage(0, 0.5)], "cls-attention"))
    left = model.run_blocks(model.embed(images), 0, 1)
    for block in backbone.blocks[1:]:
        left = block(left)
    torch.testing.assert_close(model(images), backbone.forward_head(backbone.norm(left)), **TOLERANCE)


@pytest.mark.parametrize("cut", [1, 2])
def test_blocks_run_in_pieces(make_vit: MakeViT, images: Tensor, cut: int) -> None:
    model = prune(make_vit(), HALF)
    seeds = model.seeds(images)
    middle = model.advance(Tokens(model.embed(images)), stop=cut, seeds=seeds)
    for pieces in (model.logits(middle, cut, seeds), model.head(model.advance(middle, cut, seeds=seeds))):
        torch.testing.assert_close(pieces, model(images), **TOLERANCE)


def test_a_stage_refuses_tokens_it_has_no_plan_for(make_vit: MakeViT, images: Tensor) -> None:
    model = prune(make_vit(), HALF)
    with pytest.raises(ScheduleError, match="block 0 must get 17 tokens, got 16"):
        model.run_blocks(model.embed(images)[:, 1:])


def test_switching_leaves_every_parameter_where_it_is(make_vit: MakeViT, images: Tensor) -> None:
    backbone = make_vit()
    model = prune(backbone)
    before = {name: (id(p), p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    dense = model(images)
    model.schedule = HALF
    pruned = model(images)
    model.schedule = Schedule()
    assert model.backbone is backbone
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == {
        name: place[:2] for name, place in before.items()
    }
    assert all(p.equal(before[name][2]) for name, p in model.named_parameters())
    assert model(images).equal(dense)
    assert not pruned.allclose(dense)


def test_a_schedule_that_does_not_fit_leaves_the_old_one(make_vit: MakeViT, images: Tensor) -> None:
    model = prune(make_vit(), HALF)
    before = model(images)
    with pytest.raises(ScheduleError, match=r"stages\[0\].block must be at most 1 for a backbone of 3 blocks"):
        model.schedule = Schedule([Stage(2, 0.5)], "random")
    assert model.schedule == HALF
    assert model(images).equal(before)


def test_another_backbone_is_driven_from_then_on(make_vit: MakeViT, images: Tensor) -> None:
    schedule = Schedule([Stage(1, 0.5)])
    pruned = prune(make_vit(depth=5), schedule)
    other = make_vit(depth=5)
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    expected = prune(other, schedule)(images)
    assert (pruned(images) - expected).abs().max() > 1e-3
    pruned.backbone = other
    assert pruned(images).equal(expected)
    pruned.schedule = Schedule([Stage(3, 0.5)])
    with pytest.raises(ScheduleError, match=r"stages\[0\].block must be at most 1"):
        pruned.backbone = make_vit(depth=3)
    pruned.schedule = schedule
    assert pruned(images).equal(expected)


def test_a_method_that_reads_the_class_token_needs_one(make_vit: MakeViT) -> None:
    model = make_vit("no_class_token")
    with pytest.raises(
        ScheduleError, match=r"method must not need a class token .* got cls-attention; use zero-tprune"
    ):
        prune(model, Schedule([Stage(0, 0.5)], "cls-attention"))
    prune(model, Schedule([], "cls-attention"))  # drops nothing, so it asks nothing


class FusedCalls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("stages", "fused"),
    [([], 3), ([Stage(0, 1.0)], 3), ([Stage(0, 0.5)], 2), ([Stage(1, 0.5)], 2), ([Stage(0, 0.5), Stage(1, 0.5)], 1)],
)
def test_blocks_without_a_stage_keep_fused_attention(
    make_vit: MakeViT, images: Tensor, stages: list[Stage], fused: int
) -> None:
    options = {"personalized": False}  # reads the whole attention
    model = prune(make_vit(), Schedule(stages, options=options, exact_savings=False))
    with FusedCalls() as calls:
        model(images)
    assert calls.count == fused


def test_state_dict_is_the_backbones_under_its_name(any_vit: nn.Module) -> None:
    state = prune(any_vit, HALF).state_dict()
    assert {key: value.data_ptr() for key, value in state.items()} == {
        f"backbone.{key}": value.data_ptr() for key, value in any_vit.state_dict().items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_copies_and_pickles_compute_the_same(make_vit: MakeViT, images: Tensor, method: str) -> None:
    model = prune(make_vit(), Schedule([Stage(0, 0.5)], method))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.schedule == model.schedule
        assert twin(images).equal(model(images))
        twin.schedule = Schedule()
        assert model.schedule != twin.schedule


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16(make_vit: MakeViT, images: Tensor, method: str) -> None:
    """Images come in float32 and are cast; scores stay float32, so half the tokens are near enough the same."""
    model = prune(make_vit("registers"), Schedule([Stage(0, 0.75)], method))
    exact = model(images)
    rounded = model.bfloat16()(images)
    assert rounded.dtype == torch.bfloat16
    assert rounded.isfinite().all()
    assert torch.nn.functional.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_an_image_has_the_same_logits_in_every_batch(make_vit: MakeViT, images: Tensor, method: str) -> None:
    model = prune(make_vit(), Schedule([Stage(0, 0.75), Stage(1, 0.5)], method))
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(alone, together, **TOLERANCE)
    torch.testing.assert_close(model(images.flip(0)), together.flip(0), **TOLERANCE)


def test_prune_evaluates_and_dropout_is_off(make_vit: MakeViT, images: Tensor) -> None:
    model = prune(make_vit("dropout").train(), HALF)
    assert not model.training
    assert not model.backbone.training
    assert model(images).equal(model(images))
