"""Exact savings: the last block computes what the head reads, and nobody can tell by the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.errors import ScheduleError
from pruning.flops import count_flops, trace_flops
from pruning.model import PrunedViT, prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from pruning.tokens import Tokens

MakeViT = Callable[..., nn.Module]
TOLERANCE = {"rtol": 0, "atol": 1e-4}
TOKEN = {"global_pool": "token"}
SAVING: dict[str, tuple[int, dict[str, Any]]] = {  # how many tokens the head reads, and what makes it so
    "class_token": (1, {}),
    "registers": (1, {}),
    "layer_scale": (1, {}),
    "qk_norm": (1, {}),
    "scale_norms": (1, {}),
    "pre_norm": (1, {}),
    "rms_norm": (1, {}),
    "norms_behind": (1, {}),
    "any_image_size": (1, {}),
    "distilled": (2, {}),
    "gap_beside_class_token": (1, TOKEN),
    "eva_plain": (1, TOKEN),
    "beit_plain": (1, TOKEN),
    "rotary": (1, TOKEN),
    "rotary_apart": (1, TOKEN),
    "rotary_any_size_by_block": (1, TOKEN),
    "rotary_any_size": (1, TOKEN),
    "rotary_interleaved": (1, TOKEN),
    "rotary_shared_keys": (1, TOKEN),
    "rotary_norms_behind": (1, TOKEN),
    "bias_by_block": (1, TOKEN),
    "bias_shared": (1, TOKEN),
    "bias_by_block_and_shared": (1, TOKEN),
    "mlp_bias_class_token": (1, {}),
    "table_bias": (1, TOKEN),
}
NOT_SAVING = [
    "no_class_token",
    "gap_beside_class_token",
    "max_pool_with_prefix",
    "attention_pool",
    "rotary",
    "mlp_bias",
]
MERGES = (Stage(0, 0.75), Stage(1, 0.5))
every_saving = pytest.mark.parametrize(("trait", "reads", "options"), [(t, *row) for t, row in SAVING.items()])


def watch(model: PrunedViT, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each block's second half gets; a hook would be seen, this is not."""
    seen: list[int] = []
    second = model.architecture.feed_forward

    def feed_forward(number: int, values: Tensor) -> Tensor:
        seen.append(values.shape[1])
        return second(number, values)

    monkeypatch.setattr(model.architecture, "feed_forward", feed_forward)
    return seen


@every_saving
def test_logits_are_the_untouched_models(
    make_vit: MakeViT,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    trait: str,
    reads: int,
    options: dict[str, Any],
) -> None:
    model = make_vit(trait, **options)
    pruned, expected = prune(model), model(images)
    assert (pruned.head_reads, pruned.is_saving) == (reads, True)
    seen = watch(pruned, monkeypatch)
    torch.testing.assert_close(pruned(images), expected, **TOLERANCE)
    assert seen == [reads]
    assert expected.std() > 0.1
    torch.testing.assert_close(prune(model, exact_savings=False)(images), expected, **TOLERANCE)


@every_saving
@pytest.mark.parametrize("method", ["tome", "zero-tprune"])
def test_logits_are_those_of_the_whole_block_behind_stages(
    make_vit: MakeViT, images: Tensor, trait: str, reads: int, options: dict[str, Any], method: str
) -> None:
    """Tokens with sizes and places of their own: the attention that is left weighs and places them."""
    model, schedule = make_vit(trait, **options), Schedule(MERGES, method)
    whole = prune(model, schedule, exact_savings=False)
    torch.testing.assert_close(prune(model, schedule)(images), whole(images), **TOLERANCE)
    unsized = Schedule(MERGES, method, {"proportional": False})
    assert (prune(model, unsized)(images) - whole(images)).abs().max() > 1e-3


@every_saving
def test_flops_equal_the_trace(make_vit: MakeViT, trait: str, reads: int, options: dict[str, Any]) -> None:
    model = make_vit(trait, **options)
    for schedule in (Schedule(), Schedule(MERGES, "tome")):
        saved, whole = count_flops(model, schedule), count_flops(model, schedule, exact_savings=False)
        assert saved < whole
        assert saved == trace_flops(model, schedule)
        assert whole == trace_flops(model, schedule, exact_savings=False)


def test_what_is_saved_is_what_the_formula_says(make_vit: MakeViT) -> None:
    """A token read costs its query, its product with W_k and W_v of its mean, 3 D^2 as before; others cost their norm.
    N pairs over all heads' D instead of N^2 over d; and the last norm has one token."""
    model, N, D, H = make_vit(), 17, 24, 3
    others = (N - 1) * (12 * D * D + 5 * D + 5 * D)  # qkv, proj and MLP; the norm before the MLP, the last norm
    pairs = 2 * D * N * N - 2 * H * D * N
    assert count_flops(model, UNTOUCHED) - count_flops(model) == others + pairs


def test_keys_that_are_normed_cannot_be_folded(make_vit: MakeViT) -> None:
    folding = {trait: prune(make_vit(trait)).architecture.folds(2) for trait in ("class_token", "qk_norm", "rotary")}
    assert folding == {"class_token": True, "qk_norm": False, "rotary": False}


@pytest.mark.parametrize("trait", NOT_SAVING)
def test_heads_that_read_all_tokens_get_all(make_vit: MakeViT, images: Tensor, trait: str) -> None:
    model = make_vit(trait)
    pruned = prune(model)
    assert (pruned.head_reads, pruned.is_saving) == (None, False)
    assert pruned(images).equal(prune(model, UNTOUCHED)(images))
    assert count_flops(model) == count_flops(model, UNTOUCHED) == trace_flops(model)


def test_either_the_schedule_or_the_caller_switches_them_off(make_vit: MakeViT, images: Tensor) -> None:
    model = make_vit()
    on, by_schedule = prune(model), prune(model, Schedule(exact_savings=False))
    by_caller = prune(model, exact_savings=False)
    assert [each.is_saving for each in (on, by_schedule, by_caller)] == [True, False, False]
    assert by_schedule(images).equal(model(images))
    assert by_caller(images).equal(model(images))
    flops = [count(each) for count in (count_flops, trace_flops) for each in (by_schedule, by_caller)]
    assert flops == [count_flops(model, UNTOUCHED)] * 4
    on.schedule = UNTOUCHED
    assert not on.is_saving


def test_training_computes_the_whole_block(make_vit: MakeViT, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = prune(make_vit(), Schedule(MERGES, "tome"))
    for change in (pruned.train, pruned.backbone.train):
        pruned.eval()
        assert pruned.is_saving
        change()
        assert not pruned.is_saving
    monkeypatch.setattr(pruned, "advance", lambda tokens, start=0, stop=None, seeds=None: self_check(stop, tokens))
    with pytest.raises(StopIteration):
        pruned(images)


def self_check(stop: int | None, tokens: Tokens) -> Tokens:
    """In training all blocks are asked for at once."""
    assert stop is None
    raise StopIteration


@pytest.mark.parametrize("place", ["blocks.2", "blocks.2.attn.qkv", "blocks.2.mlp", "norm"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_who_watches_sees_all_tokens(make_vit: MakeViT, images: Tensor, place: str, kind: str) -> None:
    pruned, seen = prune(make_vit()), []
    expected = pruned(images)

    def look(module: nn.Module, inputs: Any, *outputs: Any) -> None:
        seen.append(inputs[0].shape[1])

    handle = getattr(pruned.backbone.get_submodule(place), kind)(look)
    assert not pruned.is_saving
    torch.testing.assert_close(pruned(images), expected, **TOLERANCE)
    assert set(seen) == (set() if "backward" in kind else {17})
    handle.remove()
    assert pruned.is_saving


def test_what_watches_elsewhere_changes_nothing(make_vit: MakeViT) -> None:
    pruned = prune(make_vit())
    pruned.backbone.get_submodule("blocks.1").register_forward_hook(lambda *of: None)
    pruned.backbone.get_submodule("head").register_forward_hook(lambda *of: None)
    assert pruned.is_saving


def test_another_head_is_looked_at_anew(make_vit: MakeViT, images: Tensor) -> None:
    model: Any = make_vit()
    pruned = prune(model)
    for pool, saves in (("avg", False), ("token", True), ("max", False), ("avgmax", False), ("token", True)):
        model.reset_classifier(4, pool)
        assert pruned.is_saving == saves
        torch.testing.assert_close(pruned(images), model(images), **TOLERANCE)
        assert count_flops(model) == trace_flops(model)
        assert (count_flops(model) < count_flops(model, UNTOUCHED)) == saves
    model.global_pool = "avg"
    assert not pruned.is_saving
    torch.testing.assert_close(pruned(images), model(images), **TOLERANCE)


@pytest.mark.parametrize("name", ["forward_head", "pool"])
def test_a_head_put_in_place_of_timms_gets_all_tokens(make_vit: MakeViT, images: Tensor, name: str) -> None:
    model: Any = make_vit()
    pruned = prune(model)
    if name == "pool":
        model.pool = lambda values: values[:, -1]
    else:
        model.forward_head = lambda values: model.head(values[:, -1])
    assert not pruned.is_saving
    torch.testing.assert_close(pruned(images), model(images), **TOLERANCE)


def test_half_precision_is_near(make_vit: MakeViT, images: Tensor) -> None:
    pruned = prune(make_vit())
    exact = pruned(images)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = pruned.to(dtype)(images)
        assert rounded.dtype == dtype
        assert torch.nn.functional.cosine_similarity(rounded.float(), exact).min() > 0.99


LAST = Schedule([Stage(0, 0.75), Stage(2, 0.5)], "random", {"drop": "before-mlp"})


@pytest.mark.parametrize("trait", ["no_class_token", "attention_pool", "max_pool_with_prefix", "rotary", "mlp_bias"])
@pytest.mark.parametrize("method", ["random", "tome"])
def test_the_last_block_may_have_a_stage_where_the_head_reads_all(
    make_vit: MakeViT, images: Tensor, trait: str, method: str
) -> None:
    model, schedule = make_vit(trait), Schedule(LAST.stages, method, {"drop": "before-mlp"})
    pruned = prune(model, schedule)
    left = pruned.advance(Tokens(pruned.embed(images)), seeds=pruned.seeds(images))
    assert left.values.shape[1] == pruned.family.prefix + 6
    torch.testing.assert_close(pruned(images), pruned.head(left))
    assert count_flops(model, schedule) == trace_flops(model, schedule)


@pytest.mark.parametrize("savings", [True, False])
def test_a_stage_in_the_last_block_of_others_is_refused(make_vit: MakeViT, savings: bool) -> None:
    schedule = Schedule(LAST.stages, LAST.method, LAST.options, savings)
    rule = r"stages\[1\].block must be at most 1 for this backbone, whose head reads prefix tokens alone: .*, got 2"
    for use in (prune, count_flops, trace_flops):
        with pytest.raises(ScheduleError, match=rule):
            use(make_vit(), schedule)
