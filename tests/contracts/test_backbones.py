"""Real timm models, by name: driven equals untouched, a schedule runs, the closed form is the trace.

One row for each family of weights that people use. Small members, random weights: what is tested is the architecture.
Rows may shrink a model (depth, image size) to be quick; no other option of timm's entry is changed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import timm
import torch
from torch import nn

from pruning.architectures import describe
from pruning.flops import count_flops, trace_flops
from pruning.model import check_untouched, prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from pruning.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Row:
    """What a family must be found to be. tokens: n at the size given here."""

    name: str
    tokens: int
    prefix: int
    class_token: bool
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


SHORT = {"depth": 3}
SCHEDULE = Schedule([Stage(0, 0.7, 3), Stage(1, 0.6, 1, 0.4, 0.8)])
SMALL = SHORT | {"img_size": 64}
ROWS = [
    Row("deit_tiny_patch16_224", 196, 1, True, SHORT),
    Row("deit_tiny_distilled_patch16_224", 16, 2, True, SMALL),
    Row("deit3_small_patch16_224", 16, 1, True, SMALL),  # LayerScale, class token without position
    Row("vit_tiny_patch16_224", 16, 1, True, SMALL),  # AugReg
    Row("vit_small_patch32_224", 49, 1, True, SHORT),
    Row("vit_small_patch14_dinov2", 25, 1, True, SHORT | {"img_size": 70}),  # no classifier
    Row("vit_small_patch14_reg4_dinov2", 25, 5, True, SHORT | {"img_size": 70}),  # registers
    Row("vit_small_patch8_224", 64, 1, True, SMALL),  # DINO
    Row("vit_base_patch32_clip_224", 49, 1, True, SHORT),  # norm before the blocks
    Row("vit_base_patch16_clip_quickgelu_224", 16, 1, True, SMALL),
    Row("vit_base_patch16_siglip_224", 16, 0, False, SMALL),  # attention pool
    Row("vit_base_patch16_siglip_gap_224", 16, 0, False, SMALL),
    Row("vit_medium_patch16_gap_240", 16, 0, False, SMALL),  # pooled mean, no class token
    Row("vit_medium_patch16_reg4_gap_256", 16, 4, False, SMALL),  # registers, no class token
    Row("vit_wee_patch16_reg1_gap_256", 16, 1, False, SMALL),
    Row("vit_little_patch16_reg4_gap_256", 16, 4, False, SMALL),
    Row("vit_betwixt_patch16_reg4_gap_256", 16, 4, False, SMALL),
    Row("flexivit_small", 16, 1, True, SMALL),
    Row("beit3_base_patch16_224", 16, 1, True, SMALL),  # norms inside attention and MLP
    Row("vit_base_patch16_rpn_224", 16, 0, False, SMALL),  # norms behind the branches
    Row("aimv2_large_patch14_224", 16, 0, False, SHORT | {"img_size": 56}),  # root mean square norms, gated MLP
    Row("vit_intern300m_patch14_448", 16, 1, True, SHORT | {"img_size": 56}),  # any image size: taken at this one
    Row("test_vit3", 100, 1, False),  # timm's own for tests: a register and an attention pool
    Row("eva_giant_patch14_224", 16, 1, True, SHORT | {"img_size": 56, "embed_dim": 176, "num_heads": 2}),
    Row("eva02_tiny_patch14_224", 16, 1, True, SHORT | {"img_size": 56}),  # rotary, projections apart, gated MLP
    Row("eva02_base_patch14_448", 16, 1, True, SHORT | {"img_size": 56}),  # one projection, norm in the MLP
    Row("eva02_base_patch16_clip_224", 16, 1, True, SMALL),  # norm in attention
    Row("eva02_enormous_patch14_clip_224", 16, 1, True, SHORT | {"img_size": 56, "embed_dim": 224, "num_heads": 2}),
    Row("vit_medium_patch16_rope_reg1_gap_256", 16, 1, False, SMALL),
    Row("vit_small_patch16_rope_224", 16, 1, True, SMALL),
    Row("vit_small_patch16_rope_mixed_ape_224", 16, 1, True, SMALL),  # a table for each head and block
    Row("vit_pe_core_tiny_patch16_384", 16, 1, True, SMALL),  # rotary and an attention pool
    Row("vit_pe_spatial_tiny_patch16_512", 16, 1, True, SMALL),
    Row("vit_small_patch16_dinov3", 16, 5, True, SMALL),  # half-turned, any image size
    Row("vit_small_plus_patch16_dinov3", 16, 5, True, SMALL),
    Row("vit_small_patch16_lingbot", 16, 5, True, SMALL),
    Row("vit_base_patch16_sapiens2", 16, 9, True, SMALL | {"num_kv_heads": 4}),  # queries share keys
    Row("beit_base_patch16_224", 16, 1, True, SMALL),  # a bias on each pair, layer scale
    Row("beitv2_base_patch16_224", 16, 1, True, SMALL),
    Row("vit_relpos_small_patch16_224", 16, 0, False, SMALL),
    Row("vit_relpos_base_patch16_cls_224", 16, 1, True, SMALL),
    Row("vit_relpos_medium_patch16_rpn_224", 16, 0, False, SMALL),  # norms behind the branches
    Row("vit_srelpos_small_patch16_224", 16, 0, False, SMALL),  # one bias for all blocks
]


@pytest.fixture(params=ROWS, ids=lambda row: row.name, scope="module")
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture(scope="module")
def model(row: Row) -> nn.Module:
    """Every weight is drawn anew: what is initialised to zero or to one would hide a branch that is left out."""
    model = timm.create_model(row.name, device="meta", **row.options).to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):  # tables of places, which weights do not hold
            module.init_non_persistent_buffers()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        scale = 1.0 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data.normal_(0, scale, generator=generator)
        if name.endswith("bias"):
            parameter.data *= 0.1
    return model.eval().requires_grad_(False)


def test_the_family_is_as_described(row: Row, model: nn.Module) -> None:
    family = describe(model)
    assert (family.tokens, family.prefix, family.class_token) == (row.tokens, row.prefix, row.class_token)


def test_driven_and_opened_blocks_equal_the_untouched_model(model: nn.Module) -> None:
    check_untouched(model)


def test_a_pruned_schedule_runs(row: Row, model: nn.Module) -> None:
    pruned = prune(model, SCHEDULE)
    images = torch.randn(2, *pruned.family.image_shape, generator=torch.Generator().manual_seed(0))
    tokens = pruned.advance(Tokens(pruned.embed(images)))
    assert tokens.values.shape[1] == row.prefix + int(int(row.tokens * 0.7) * 0.6)
    logits, dense = pruned.head(tokens), model(images)
    assert logits.shape == dense.shape
    assert logits.isfinite().all()
    torch.testing.assert_close(pruned(images), logits, atol=1e-4, rtol=0)  # the last block's savings are exact
    assert not logits.allclose(dense, atol=1e-3)


def test_closed_form_equals_the_trace(model: nn.Module) -> None:
    """Blocks 0 and 1 are opened, block 2 is fused, or computed for what the head reads alone."""
    whole = [count(model, SCHEDULE, exact_savings=False) for count in (count_flops, trace_flops)]
    saved = [count(model, SCHEDULE) for count in (count_flops, trace_flops)]
    assert whole[0] == whole[1]
    assert saved[0] == saved[1]
    assert (saved[0] < whole[0]) == (prune(model).head_reads is not None)
