"""Tokens that stand for several: a head that reads them all weighs each as often as it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.architectures import drive
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from pruning.tokens import Tokens

MakeViT = Callable[..., nn.Module]
POOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("no_class_token", {}),
    "mean beside a class token": ("gap_beside_class_token", {}),
    "mean of registers too": ("max_pool_with_prefix", {"global_pool": "avg"}),
    "largest": ("max_pool_with_prefix", {"pool_include_prefix": False}),
    "largest and mean": ("no_class_token", {"global_pool": "avgmax"}),
    "attention": ("attention_pool", {}),
    "attention to registers too": ("attention_pool", {"pool_include_prefix": True}),
    "class token": ("class_token", {}),
    "two tokens": ("distilled", {}),
    "rotary": ("rotary", {}),
    "rotary, attention": ("rotary_half", {"num_reg_tokens": 2}),
    "relative bias": ("bias_by_block", {}),
    "relative bias by MLP": ("mlp_bias", {}),
}
every_pool = pytest.mark.parametrize(("trait", "options"), POOLS.values(), ids=POOLS)


@every_pool
def test_a_token_of_size_s_is_read_like_s_tokens(make_vit: MakeViT, trait: str, options: dict[str, Any]) -> None:
    """The slow way: each token written out as often as it stands for, and timm's own head."""
    vit: Any = make_vit(trait, **options)
    architecture = drive(vit)
    prefix = architecture.family.prefix
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(3, prefix + 6, 24, generator=generator)
    sizes = torch.randint(1, 5, (3, prefix + 6), generator=generator).float()
    sizes[:, :prefix] = 1
    logits = architecture.head(Tokens(values, sizes=sizes))
    for image in range(3):
        written_out = values[image].repeat_interleave(sizes[image].long(), dim=0)[None]
        torch.testing.assert_close(logits[image], vit.forward_head(vit.norm(written_out))[0], rtol=1e-4, atol=1e-5)
    weighed = (logits - architecture.head(Tokens(values))).abs().max() > 1e-3
    assert weighed == (trait not in ("class_token", "distilled") and options.get("pool_include_prefix", True))


def test_the_mean_by_loop(make_vit: MakeViT) -> None:
    vit: Any = make_vit("no_class_token")
    values = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(5))
    sizes = [1.0, 3.0, 2.0, 10.0]
    total = torch.zeros(24)
    for token, size in zip(vit.norm(values)[0], sizes, strict=True):
        total += size * token
    expected = vit.head(vit.fc_norm(total / 16))
    torch.testing.assert_close(drive(vit).head(Tokens(values, sizes=torch.tensor([sizes])))[0], expected)


def test_a_head_of_ones_own_is_left_to_itself(make_vit: MakeViT) -> None:
    """What stands in place of timm's pooling is not known here: it gets the tokens as they are."""
    vit: Any = make_vit("no_class_token")
    vit.pool = lambda values: values[:, 0]
    values = torch.randn(2, 4, 24)
    logits = drive(vit).head(Tokens(values, sizes=torch.full((2, 4), 3.0)))
    assert logits.equal(vit.forward_head(vit.norm(values)))


def doubled_images() -> Tensor:
    """Each patch beside its copy: places 0 and 1, 2 and 3, ..."""
    halves = torch.randn(3, 3, 4, 8, 2, 8, generator=torch.Generator().manual_seed(6))
    return halves.repeat_interleave(2, dim=4).reshape(3, 3, 32, 32)


MERGING: list[tuple[str, dict[str, Any]]] = [
    ("tome", {"halves": "patches"}),
    ("tome", {"halves": "tokens", "drop": "block-end"}),
    ("tome", {"halves": "patches", "merged_norm": "max"}),
    ("zero-tprune", {"split": "places", "size_exponent": 1.0}),
    (
        "zero-tprune",
        {"split": "places", "weight": "rank", "drop": "block-end", "merged_norm": "mean", "size_exponent": 1.0},
    ),
]
TRAITS = ["class_token", "no_class_token", "gap_beside_class_token", "attention_pool", "qk_norm"]


@pytest.mark.parametrize(("method", "options"), MERGING, ids=str)
@pytest.mark.parametrize("trait", TRAITS)
def test_merging_copies_changes_no_logits(make_vit: MakeViT, trait: str, method: str, options: dict[str, Any]) -> None:
    vit: Any = make_vit(trait)
    vit.pos_embed.data.zero_()
    images = doubled_images()
    stages = [Stage(0, 0.5, partition=0.5, similarity_share=1.0)]
    pruned = prune(vit, Schedule(stages, method, options))
    left = pruned.advance(Tokens(pruned.embed(images)), stop=1)
    prefix = pruned.family.prefix
    assert left.sizes is not None
    assert left.sizes[:, prefix:].eq(2).all()
    torch.testing.assert_close(pruned(images), vit(images), rtol=0, atol=1e-4)
    unlike = prune(vit, Schedule([Stage(0, 0.75, 1, 0.5, 1.0)], method, options | {"proportional": False}))
    assert (unlike(images) - vit(images)).abs().max() > 1e-3  # of copies some are one token, and weigh as one


@pytest.mark.parametrize("method", ["tome", "pitome", "diffrate"])
def test_schedules_of_before_pool_every_token_alike(make_vit: MakeViT, method: str) -> None:
    """Files without a revision: their numbers were measured so. What blocks did with sizes was the same."""
    vit = make_vit("gap_beside_class_token")
    stages = [{"block": 1, "keep": 0.6, "similarity_share": 1.0}]
    old = prune(vit, Schedule.from_dict({"method": method, "stages": stages}))
    images = torch.randn(2, *old.family.image_shape, generator=torch.Generator().manual_seed(3))
    tokens = old.advance(Tokens(old.embed(images)))
    assert tokens.sizes is not None
    torch.testing.assert_close(old(images), old.head(Tokens(tokens.values)))
    options = {"halves": "patches"} if method == "tome" else {}
    new = prune(vit, Schedule([Stage(1, 0.6, similarity_share=1.0)], method, options))
    assert (new(images) - old(images)).abs().max() > 1e-4


def test_without_proportional_attention_sizes_weigh_the_mean_alone(make_vit: MakeViT) -> None:
    vit = make_vit("no_class_token")
    architecture = drive(vit)
    generator = torch.Generator().manual_seed(7)
    values, sizes = torch.randn(2, 9, 24, generator=generator), torch.full((2, 9), 4.0)
    sizes[:, ::2] = 1
    plain, sized = Tokens(values), Tokens(values, sizes=sizes, size_exponent=0.0)
    for number in range(3):
        assert architecture.run(number, sized).values.equal(architecture.run(number, plain).values)
        attended = [architecture.attend(number, each, "attention").attention for each in (sized, plain)]
        assert attended[0].equal(attended[1])
    assert (architecture.head(sized) - architecture.head(plain)).abs().max() > 1e-3
    assert architecture.head(sized).equal(architecture.head(Tokens(values, sizes=sizes)))
    biased = architecture.run(0, Tokens(values, sizes=sizes)).values
    assert (biased - architecture.run(0, plain).values).abs().max() > 1e-3


def test_the_last_stage_that_merged_decides_whether_sizes_count(make_vit: MakeViT, images: Tensor) -> None:
    """A stage that merges nothing changes nothing of it."""
    stages = [
        Stage(0, 0.75, options={"proportional": False}),
        Stage(1, 0.75, method="random"),
        Stage(2, 0.75, method="diffrate"),
        Stage(3, 0.75, similarity_share=0.0, method="diffrate", options={"proportional": False}),
    ]
    pruned = prune(make_vit(depth=5), Schedule(stages, "tome"))
    tokens, found = Tokens(pruned.embed(images)), []
    for block in range(4):
        tokens = pruned.advance(tokens, block, block + 1, pruned.seeds(images))
        found.append(tokens.size_exponent)
    assert found == [0.0, 0.0, 1.0, 1.0]
