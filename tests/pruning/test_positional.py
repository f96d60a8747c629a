"""Backbones whose blocks know where a token is, against the slow way: all tokens stay, but nobody looks at the dropped.

The reference is timm's own model, its own blocks and tables and biases at full size; a mask takes the dropped tokens'
columns out of every softmax. What the kept tokens become must be what the pruned model makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from pruning.architectures import drive
from pruning.errors import PruningError
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from pruning.tokens import Tokens

MakeViT = Callable[..., nn.Module]
DROPS = {"zero-tprune": {"similarity": "drop", "unimportant": "drop"}}  # nobody may join a token that is compared
STAGES = [Stage(0, 0.75, 3), Stage(1, 0.6, 2, 0.4, 0.8)]  # 16 -> 12 -> 7 tokens; block 2 runs without a stage


@contextmanager
def masked_bias(block: Any, mask: Tensor) -> Any:
    """`RelPosAttention` takes no mask beside a bias of its own: the bias holds it for a while."""
    relation = block.attn.rel_pos
    bias = relation.get_bias() + mask
    relation.get_bias = lambda: bias
    yield
    del relation.get_bias


def run_masked(model: Any, number: int, values: Tensor, mask: Tensor) -> Tensor:
    """timm's block `number` on all tokens [B, N, D]; mask: [B, 1, 1, N], 0 or -inf."""
    block = model.blocks[number]
    if isinstance(model, Eva):
        rope = model._pos_embed(model.patch_embed(values.new_zeros(1, 3, 32, 32)))[1]
        return block(values, rope=rope[number] if model.rope_mixed else rope, attn_mask=mask)
    if isinstance(model, VisionTransformerRelPos):
        if model.shared_rel_pos is not None:
            return block(values, shared_rel_pos=model.shared_rel_pos.get_bias() + mask)
        with masked_bias(block, mask):
            return block(values)
    shared = 0 if model.rel_pos_bias is None else model.rel_pos_bias()
    return block(values, shared_rel_pos_bias=mask + shared)


def mask_of(index: Tensor, prefix: int) -> Tensor:
    """[B, 1, 1, P + 16]: 0 for prefix tokens and those in index [B, K], -inf for the others."""
    mask = torch.full((len(index), prefix + 16), -torch.inf, dtype=torch.float64)
    mask[:, :prefix] = 0
    for image, kept in enumerate(index.tolist()):
        for place in kept:
            mask[image, prefix + place] = 0
    return mask[:, None, None]


def reference(pruned: PrunedViT, images: Tensor) -> Tensor:
    """Tokens [B, P + K, D] that the dense model has where the pruned one kept something. Drops at block ends only."""
    model: Any = pruned.backbone
    prefix = pruned.family.prefix
    values, index = pruned.embed(images), torch.arange(16).expand(len(images), -1)
    for number in range(3):
        values = run_masked(model, number, values, mask_of(index, prefix))
        index = pruned.advance(Tokens(pruned.embed(images)), stop=number + 1).places(prefix)
    return torch.stack([torch.cat((v[:prefix], v[prefix:][kept])) for v, kept in zip(values, index, strict=True)])


@pytest.mark.parametrize("method", ["zero-tprune", "cls-attention"])
def test_the_kept_tokens_are_the_dense_models_who_see_no_dropped_one(
    positional_vit: nn.Module, images: Tensor, method: str
) -> None:
    """In float64, so that what a wrong place changes is far above the tolerance; stages compute in float32."""
    positional_vit.double()
    if method == "cls-attention" and not drive(positional_vit).family.class_token:
        pytest.skip("there is no class token")
    pruned = prune(positional_vit, Schedule(STAGES, method, DROPS.get(method)))
    tokens = pruned.advance(Tokens(pruned.embed(images.double())))
    assert tokens.index is not None
    assert tokens.index.shape == (3, 7)
    expected = reference(pruned, images)
    torch.testing.assert_close(tokens.values, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pruned(images), pruned.head(Tokens(expected)), rtol=0, atol=1e-5)


def test_places_matter(positional_vit: nn.Module, images: Tensor) -> None:
    """The test above would pass on blocks that ignore places: these do not."""
    architecture = drive(positional_vit.double())
    images = images.double()
    values = architecture.embed(images)
    here = architecture.run(0, Tokens(values, index=torch.arange(16).expand(3, -1))).values
    elsewhere = architecture.run(0, Tokens(values, index=torch.arange(16).roll(5).expand(3, -1))).values
    torch.testing.assert_close(here, architecture.run(0, Tokens(values)).values, rtol=0, atol=1e-5)
    assert (elsewhere - here).abs().max() > 5e-4


def test_each_image_has_places_of_its_own(positional_vit: nn.Module, images: Tensor) -> None:
    pruned = prune(positional_vit, Schedule(STAGES))
    together = pruned.advance(Tokens(pruned.embed(images)))
    assert together.index is not None
    assert len({tuple(row) for row in together.index.tolist()}) > 1
    alone = torch.cat([pruned.advance(Tokens(pruned.embed(image[None]))).values for image in images])
    torch.testing.assert_close(together.values, alone, rtol=1e-4, atol=1e-4)


def test_images_need_not_be_square(make_vit: MakeViT) -> None:
    images = torch.randn(2, 3, 16, 48, generator=torch.Generator().manual_seed(0))
    for trait in ("rotary", "rotary_any_size", "rotary_any_size_by_block", "bias_by_block", "mlp_bias"):
        model = make_vit(trait, img_size=(16, 48))
        torch.testing.assert_close(prune(model)(images), model(images), rtol=1e-4, atol=1e-4)


def test_bfloat16_runs(positional_vit: nn.Module, images: Tensor) -> None:
    logits = prune(positional_vit.bfloat16(), Schedule(STAGES))(images)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("trait", ["class_token", "any_image_size", "rotary_any_size"])
def test_images_of_another_size_are_refused(make_vit: MakeViT, trait: str) -> None:
    """Some backbones would take them, but a schedule's counts are for the size that the backbone was made for."""
    pruned = prune(make_vit(trait), Schedule(STAGES))
    with pytest.raises(PruningError, match=r"images must be \[B, 3, 32, 32\], as the backbone was made for, got \[2,"):
        pruned(torch.zeros(2, 3, 40, 40))
