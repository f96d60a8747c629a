"""torchvision's vision transformers: `vit_b_16` and its siblings, with SWAG's weights at their own image sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch import nn

from pruning.checkpoints.base import Blueprint, Listed, Source, State, crop_share, rename
from pruning.errors import UnsupportedBackbone

NAME = "torchvision"
PREFIX = f"{NAME}/"
MODELS = {  # to timm's model of the same shape
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}


def by_name(name: str) -> Blueprint:
    """`torchvision/vit_b_16`, alone or with the name of its weights, as `torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1`.

    Raises UnsupportedBackbone.
    """
    from torchvision.models import get_model_weights

    model, dot, tag = name.removeprefix(PREFIX).partition(".")
    if model not in MODELS:
        raise UnsupportedBackbone(f"backbone.name must be {PREFIX} and one of {', '.join(MODELS)}, got {name!r}")
    known = get_model_weights(model)
    tags = [each.name for each in known]
    if dot and tag not in tags:
        raise UnsupportedBackbone(f"backbone.name must end in one of {', '.join(tags)}, got {name!r}")
    weights = known[tag] if tag else known.DEFAULT
    transform = weights.transforms()
    size = transform.crop_size[0]
    return Blueprint(
        source=NAME,
        build=lambda **options: timm.create_model(MODELS[model], **{"img_size": size, "num_classes": 1000, **options}),
        preprocessing={
            "mean": tuple(transform.mean),
            "std": tuple(transform.std),
            "interpolation": transform.interpolation.value,
            "crop_pct": crop_share(size, transform.resize_size[0]),
            "crop_mode": "center",
        },
        class_names=tuple(weights.meta["categories"]),
        download=partial(weights.get_state_dict, progress=False, check_hash=True),
    )


def options(state: State) -> dict[str, Any]:
    """A classifier may have been fine-tuned for other classes."""
    return {"num_classes": state["heads.head.weight"].shape[0]} if "heads.head.weight" in state else {}


NAMES = (
    (r"class_token", "cls_token"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"heads\.head\.", "head."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
)


def convert(state: State, model: nn.Module) -> State:
    return {rename(name, NAMES): value for name, value in state.items()}


def listed() -> dict[str, Listed]:
    """Each with the names of its weights."""
    from torchvision.models import get_model_weights

    names = {f"{PREFIX}{model}": tuple(each.name for each in get_model_weights(model)) for model in MODELS}
    return {name: (by_name(name).build, tags) for name, tags in names.items()}


SOURCE = Source(
    NAME,
    r"(?P<prefix>(?:.*\.)?)conv_proj\.weight",
    convert,
    options,
    by_name,
    listed=listed,
    needs=f"a model of torchvision's, so that backbone.name must be {PREFIX} and one of {', '.join(MODELS)}",
)
