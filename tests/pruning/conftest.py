"""Tiny vision transformers of timm's own classes, one per trait that the driver must get right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm import RmsNorm
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from torch import Tensor, nn

SIZES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,  # 4 x 4 = 16 patch tokens
    "embed_dim": 24,
    "num_heads": 3,
    "depth": 3,
    "num_classes": 5,
}
TRAITS: dict[str, dict[str, Any]] = {
    "class_token": {},
    "registers": {"reg_tokens": 4, "no_embed_class": True},
    "layer_scale": {"init_values": 1e-5},
    "no_class_token": {"class_token": False, "global_pool": "avg"},
    "gap_beside_class_token": {"global_pool": "avg"},
    "max_pool_with_prefix": {"global_pool": "max", "pool_include_prefix": True, "reg_tokens": 1},
    "attention_pool": {"class_token": False, "reg_tokens": 1, "global_pool": "map"},
    "qk_norm": {"qk_norm": True},
    "scale_norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "pre_norm": {"pre_norm": True},
    "dropout": {"drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1},
    "rms_norm": {"norm_layer": RmsNorm},
    "norms_behind": {"block_fn": ResPostBlock},
    "any_image_size": {"dynamic_img_size": True},
    "distilled": {"cls": VisionTransformerDistilled},
}
ROTARY = {"cls": Eva, "use_rot_pos_emb": True}
MLP_BIAS = {"cls": VisionTransformerRelPos}
POSITIONAL: dict[str, dict[str, Any]] = {  # their blocks know where each token is
    "rotary": ROTARY,
    "rotary_apart": ROTARY | {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
    "rotary_half": ROTARY | {"rope_rotate_half": True, "swiglu_mlp": True, "global_pool": "map", "qkv_bias": False},
    "rotary_by_block": ROTARY | {"rope_type": "mixed", "attn_type": "rope", "class_token": False},
    "rotary_any_size_by_block": ROTARY | {"rope_type": "mixed", "dynamic_img_size": True, "init_values": 0.5},
    "rotary_any_size": ROTARY | {"rope_type": "dinov3", "dynamic_img_size": True, "num_reg_tokens": 4},
    "rotary_interleaved": ROTARY | {"rope_type": "mrope", "init_values": 0.5, "attn_only_layer_scale": True},
    "rotary_shared_keys": ROTARY | {"attn_type": "rope", "num_kv_heads": 1, "qkv_fused": False, "qk_norm": True},
    "rotary_norms_behind": ROTARY | {"use_post_norm": True},
    "bias_by_block": {"cls": Beit, "use_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.5},
    "bias_shared": {"cls": Beit, "use_shared_rel_pos_bias": True, "qkv_bias": False, "swiglu_mlp": True},
    "bias_by_block_and_shared": {"cls": Beit, "use_rel_pos_bias": True, "use_shared_rel_pos_bias": True},
    "mlp_bias": MLP_BIAS | {"qk_norm": True},
    "mlp_bias_class_token": MLP_BIAS | {"class_token": True, "global_pool": "token", "rel_pos_type": "mlp-swin"},
    "mlp_bias_shared": MLP_BIAS | {"shared_rel_pos": True, "block_fn": ResPostRelPosBlock},
    "table_bias": MLP_BIAS | {"rel_pos_type": "bias", "class_token": True},
}
# An `Eva` and a `Beit` without positions in their blocks are plain.
UNPOSITIONAL: dict[str, dict[str, Any]] = {"eva_plain": {"cls": Eva}, "beit_plain": {"cls": Beit}}
EVERY = TRAITS | UNPOSITIONAL | POSITIONAL


def build(trait: str = "class_token", **overrides: Any) -> nn.Module:
    """A model in evaluation mode whose every weight is drawn anew, so that no branch is the identity or zero."""
    options = {"cls": VisionTransformer} | SIZES | EVERY[trait] | overrides
    model: nn.Module = options.pop("cls")(**options)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval().requires_grad_(False)


@pytest.fixture
def make_vit() -> Callable[..., nn.Module]:
    return build


@pytest.fixture(params=EVERY)
def any_vit(request: pytest.FixtureRequest) -> nn.Module:
    """Once per trait."""
    return build(request.param)


@pytest.fixture(params=POSITIONAL)
def positional_vit(request: pytest.FixtureRequest) -> nn.Module:
    """Once per way in which blocks know where a token is."""
    return build(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def attention() -> Tensor:
    """[2, 3, 7, 7], rows sum to 1, far from uniform."""
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3)).mul(2).softmax(-1)
