"""Tiny vision transformers of timm's own classes, one per trait that the driver must get right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
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
    "distilled": {},
}


def build(trait: str = "class_token", **overrides: Any) -> nn.Module:
    """A model in evaluation mode whose every weight is drawn anew, so that no branch is the identity or zero."""
    cls = VisionTransformerDistilled if trait == "distilled" else VisionTransformer
    model: nn.Module = cls(**{**SIZES, **TRAITS[trait], **overrides})
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval().requires_grad_(False)


@pytest.fixture
def make_vit() -> Callable[..., nn.Module]:
    return build


@pytest.fixture(params=TRAITS)
def any_vit(request: pytest.FixtureRequest) -> nn.Module:
    """Once per trait."""
    return build(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def attention() -> Tensor:
    """[2, 3, 7, 7], rows sum to 1, far from uniform."""
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3)).mul(2).softmax(-1)
