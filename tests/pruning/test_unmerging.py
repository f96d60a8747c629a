"""Merged tokens told apart again: against a slow account of every patch, one image and one block at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.flops import count_flops, trace_flops
from pruning.merging import unmerged
from pruning.methods.base import Signals
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from pruning.tokens import GONE, Tokens
from tests.pruning.conftest import build

DEPTH, BEHIND_THE_MIDDLE, LAST_QUARTER = 12, 7, 9
TOLERANCE = {"rtol": 0, "atol": 1e-5}
ON, OFF = {"unmerge": True}, {"unmerge": False}
MIXED = [Stage(7, 0.8, method="zero-tprune", options=ON), Stage(8, 0.7, method="tome", options=ON)]
CASES: dict[str, Schedule] = {
    "tome": Schedule([Stage(2, 0.8), Stage(7, 0.7), Stage(9, 0.6)], "tome", ON),
    "pitome behind the block": Schedule([Stage(7, 0.7), Stage(8, 0.6)], "pitome", ON | {"drop": "block-end"}),
    "zero-tprune": Schedule([Stage(2, 0.8), Stage(7, 0.6), Stage(9, 0.5), Stage(10, 0.5)], "zero-tprune", ON),
    "diffrate drops some": Schedule([Stage(7, 0.8, similarity_share=0.5), Stage(9, 0.6)], "diffrate", ON),
    "ppt drops in some images": Schedule([Stage(7, 0.8), Stage(8, 0.6)], "ppt", ON | {"threshold": 2e-4}),
    "dropped behind": Schedule([*MIXED, Stage(9, 0.5, method="cls-attention"), Stage(10, 0.6, method="ats")]),
    "dropped before": Schedule([Stage(0, 0.8, method="random"), Stage(7, 0.5, method="tome", options=ON)]),
    "merged for good before": Schedule([Stage(3, 0.8, method="tome"), Stage(8, 0.5, method="zero-tprune", options=ON)]),
    "no proportional attention before": Schedule(
        [Stage(0, 0.8, method="tome", options={"proportional": False}), Stage(7, 0.5, method="tome", options=ON)]
    ),
}
every_case = pytest.mark.parametrize("schedule", CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Account:
    """Of one image: what each patch token would be by itself, and which token stands for it."""

    def __init__(self, tokens: Tokens, prefix: int) -> None:
        self.prefix = prefix
        self.vectors = list(tokens.values[0, prefix:])
        self.token: list[int | None] = list(range(len(self.vectors)))
        weigh = tokens.size_exponent if tokens.sizes is not None else 0
        sizes = tokens.sizes[0, prefix:] if tokens.sizes is not None else torch.ones(len(self.vectors))
        self.weights = [float(size) ** weigh for size in sizes]

    def moved(self, before: Tensor, after: Tensor) -> None:
        """What a layer adds to a token is added to all that it stands for."""
        for i, place in enumerate(self.token):
            if place is not None:
                self.vectors[i] = self.vectors[i] + after[self.prefix + place] - before[self.prefix + place]

    def reduced(self, standing: list[int | None]) -> None:
        """standing: for each token that entered a stage, the one left that stands for it."""
        self.token = [None if place is None else standing[place] for place in self.token]


def by_account(model: PrunedViT, image: Tensor) -> Tensor:
    """Logits [1, classes] of one image [1, C, H, W], without a product that is not written out."""
    tokens, prefix, account = Tokens(model.embed(image)), model.family.prefix, None
    seeds = model.seeds(image)
    for number in range(DEPTH):
        attended = model.architecture.attend(number, tokens, "attention")
        values = attended.output
        if account is not None and number >= LAST_QUARTER:
            values = torch.cat((read(model, number, tokens.values[0, :prefix], account)[None], values[:, prefix:]), 1)
        if account is not None:
            account.moved(tokens.values[0], values[0])
        if number not in model._stages:
            done = model.architecture.feed_forward(number, values)
            if account is not None:
                account.moved(values[0], done[0])
            tokens = tokens.with_values(done)
            continue
        plan, method = model._stages[number]
        if method.drop == "block-end":
            done = model.architecture.feed_forward(number, values)
            if account is not None:
                account.moved(values[0], done[0])
            values = done
        entering, left = tokens.with_values(values), model.run_stage(number, tokens, plan, method, seeds)
        if method.unmerge and number >= BEHIND_THE_MIDDLE and account is None:
            account = Account(entering, prefix)
        if account is not None:
            assert left.members is not None
            merge = left.members.merges[-1]
            alive = torch.ones(plan.tokens).bool() if merge.alive is None else merge.alive[0]
            account.reduced([int(t) if a else None for t, a in zip(merge.token[0], alive, strict=True)])
        if method.drop == "before-mlp" and account is not None:
            reduced = method.reduce(entering, signals_of(model, tokens, entering, attended, seeds), plan)
            account.moved(reduced.values[0], left.values[0])
        tokens = left
    if account is None:
        return model.head(tokens)
    first = tokens.values[0, :prefix]
    return model.head(Tokens(first[None]))


def signals_of(model: PrunedViT, tokens: Tokens, entering: Tokens, attended: Any, seeds: Tensor | None) -> Signals:
    return Signals(
        attended.attention,
        attended.query,
        attended.key,
        attended.value,
        tokens.values,
        entering.values,
        model.family.prefix,
        True,
        DEPTH,
        seeds,
        attended.class_row,
    )


def read(model: PrunedViT, number: int, first: Tensor, account: Account) -> Tensor:
    """The prefix tokens behind block `number`'s attention to every patch that is still there, [P, D]."""
    block: Any = model.backbone.get_submodule(f"blocks.{number}")
    there = [i for i, place in enumerate(account.token) if place is not None]
    everyone = torch.stack([*first, *(account.vectors[i] for i in there)])
    weights = torch.tensor([1.0] * len(first) + [account.weights[i] for i in there])
    heads, width = block.attn.num_heads, block.attn.head_dim
    query, key, value = block.attn.qkv(block.norm1(everyone)).view(len(everyone), 3, heads, width).unbind(1)
    rows = []
    for row in range(len(first)):
        mixed = []
        for head in range(heads):
            logits = torch.stack([query[row, head] @ key[i, head] * block.attn.scale for i in range(len(everyone))])
            shares = logits.exp() * weights
            mixed.append((shares[:, None] * value[:, head]).sum(0) / shares.sum())
        rows.append(first[row] + block.ls1(block.attn.proj(torch.cat(mixed))))
    return torch.stack(rows)


@every_case
@pytest.mark.parametrize("trait", ["class_token", "registers"])
def test_logits_are_those_of_the_slow_account(schedule: Schedule, trait: str, images: Tensor) -> None:
    model = prune(build(trait, depth=DEPTH, init_values=0.5), schedule)
    logits = model(images)
    for i, image in enumerate(images):
        torch.testing.assert_close(logits[i : i + 1], by_account(model, image[None]), **TOLERANCE)
    whole = Schedule(schedule.stages, schedule.method, schedule.options, exact_savings=False)
    torch.testing.assert_close(prune(model.backbone, whole)(images), logits, **TOLERANCE)


@every_case
def test_it_changes_the_logits_and_costs_what_is_counted(schedule: Schedule, images: Tensor) -> None:
    model = prune(build(depth=DEPTH), schedule)
    stages = [
        Stage(**s.numbers(), method=s.method, options={**s.options, **OFF} if "unmerge" in s.options else s.options)
        for s in schedule.stages
    ]
    options = {**schedule.options, **OFF} if "unmerge" in schedule.options else schedule.options
    without = prune(model.backbone, Schedule(stages, schedule.method, options))
    assert (model(images) - without(images)).abs().max() > 1e-4
    assert model.schedule.key_for(16) != without.schedule.key_for(16)
    counted = count_flops(model)
    assert counted == trace_flops(model) > count_flops(without)
    assert count_flops(model, exact_savings=False) == trace_flops(model, exact_savings=False)


@pytest.mark.parametrize("trait", ["rotary", "bias_by_block", "mlp_bias_class_token", "norms_behind", "distilled"])
def test_other_architectures_read_members_at_their_own_places(trait: str, images: Tensor) -> None:
    """Tokens that merge into copies of themselves lose nothing in the last block, wherever they stand."""
    backbone = build(trait, depth=5, global_pool="token")
    model = prune(backbone, Schedule([Stage(3, 0.5)], "tome", ON | {"drop": "block-end"}))
    tokens = model.advance(Tokens(model.embed(images)), stop=4)
    apart = unmerged(tokens, model.family.prefix)
    dense = prune(backbone).advance(Tokens(model.embed(images)), stop=4)
    torch.testing.assert_close(apart.values, dense.values, **TOLERANCE)
    torch.testing.assert_close(model(images), prune(backbone)(images), rtol=0, atol=1e-4)  # the head reads it all
    assert (prune(backbone, Schedule([Stage(3, 0.5)], "tome"))(images) - model(images)).abs().max() > 1e-4
    assert count_flops(model) == trace_flops(model)


@pytest.mark.parametrize("trait", ["no_class_token", "gap_beside_class_token", "attention_pool", "mlp_bias"])
def test_where_the_head_reads_all_tokens_nothing_is_remembered(trait: str, images: Tensor) -> None:
    backbone = build(trait, depth=5)
    on, off = (prune(backbone, Schedule([Stage(3, 0.5)], "tome", options)) for options in (ON, OFF))
    assert on.advance(Tokens(on.embed(images))).members is None
    assert on(images).equal(off(images))
    assert count_flops(on) == count_flops(off) == trace_flops(on)


def test_a_fused_token_ends_what_is_remembered(images: Tensor) -> None:
    stages = [Stage(3, 0.8, method="tome", options=ON), Stage(4, 0.6, method="hatp")]
    model = prune(build(depth=6), Schedule(stages))
    assert model.advance(Tokens(model.embed(images)), stop=4).members is None  # in the middle
    stages = [Stage(4, 0.8, method="tome", options=ON), Stage(5, 0.6, method="hatp", options={"drop": "before-mlp"})]
    model = prune(build(depth=7), Schedule(stages))
    assert model.advance(Tokens(model.embed(images)), stop=5).members is not None
    assert model.advance(Tokens(model.embed(images)), stop=6).members is None
    assert count_flops(model) == trace_flops(model)


def test_who_was_dropped_counts_for_nothing() -> None:
    """In every number format: the logarithm of its size is finite, and attention to it is none."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        log = torch.tensor(GONE).log().to(dtype)
        assert log.isfinite()
        assert torch.stack((torch.zeros((), dtype=dtype), log)).float().softmax(0)[1] < 1e-28


def test_images_in_chunks_and_alone_agree(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page rank's stages take few images at once; what earlier stages remember goes along."""
    options = ON | {"personalized": False}
    schedule = Schedule([Stage(0, 0.8), Stage(7, 0.6), Stage(9, 0.6)], "zero-tprune", options)
    model = prune(build(depth=DEPTH), schedule)
    whole = model(images)
    monkeypatch.setattr("pruning.model.CACHE_BYTES", 2 * 4 * 3 * 17**2)  # two images
    torch.testing.assert_close(model(images), whole, **TOLERANCE)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), whole, **TOLERANCE)


def test_gradients_reach_what_was_merged(images: Tensor) -> None:
    model = prune(build(depth=5), Schedule([Stage(3, 0.5)], "tome", ON)).train()
    pixels = images.clone().requires_grad_(True)
    model(pixels).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().amax(1) > 0).all()


def test_a_hook_on_a_block_sees_its_tokens(images: Tensor) -> None:
    backbone: nn.Module = build(depth=5)
    model, seen = prune(backbone, Schedule([Stage(3, 0.5)], "tome", ON)), []
    for block in backbone.get_submodule("blocks").children():
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape[1], output.shape[1])))
    model(images)
    assert seen == [*[(17, 17)] * 3, (17, 9), (9, 9)]
