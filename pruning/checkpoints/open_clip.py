"""OpenCLIP's vision towers: bare files, and folders with `open_clip_config.json`. Converted by timm's own filter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from pruning.checkpoints.base import CLIP, HALF, Blueprint, Listed, Source, State, first_file, read_json
from pruning.errors import UnsupportedBackbone

NAME = "openclip"
PREFIX = f"{NAME}/"
MODELS = {  # OpenCLIP's names to timm's of the same architecture
    "ViT-B-32": "vit_base_patch32_clip_224",
    "ViT-B-32-256": "vit_base_patch32_clip_256",
    "ViT-B-32-quickgelu": "vit_base_patch32_clip_quickgelu_224",
    "ViT-B-16": "vit_base_patch16_clip_224",
    "ViT-B-16-quickgelu": "vit_base_patch16_clip_quickgelu_224",
    "ViT-B-16-plus-240": "vit_base_patch16_plus_clip_240",
    "ViT-L-14": "vit_large_patch14_clip_224",
    "ViT-L-14-336": "vit_large_patch14_clip_336",
    "ViT-L-14-quickgelu": "vit_large_patch14_clip_quickgelu_224",
    "ViT-L-14-336-quickgelu": "vit_large_patch14_clip_quickgelu_336",
    "ViT-H-14": "vit_huge_patch14_clip_224",
    "ViT-H-14-quickgelu": "vit_huge_patch14_clip_quickgelu_224",
    "ViT-H-14-378-quickgelu": "vit_huge_patch14_clip_quickgelu_378",
    "ViT-g-14": "vit_giant_patch14_clip_224",
    "ViT-bigG-14": "vit_gigantic_patch14_clip_224",
    "ViT-bigG-14-quickgelu": "vit_gigantic_patch14_clip_quickgelu_224",
    "ViT-B-16-SigLIP": "vit_base_patch16_siglip_224",
    "ViT-B-16-SigLIP-256": "vit_base_patch16_siglip_256",
    "ViT-B-16-SigLIP-384": "vit_base_patch16_siglip_384",
    "ViT-L-16-SigLIP-256": "vit_large_patch16_siglip_256",
    "ViT-L-16-SigLIP-384": "vit_large_patch16_siglip_384",
    "ViT-SO400M-14-SigLIP": "vit_so400m_patch14_siglip_224",
    "ViT-SO400M-14-SigLIP-384": "vit_so400m_patch14_siglip_384",
}
SQUASHED = {"ViT-H-14-378-quickgelu"}  # to which all weights were trained on images without their shape
# of `vision_cfg`: what a builder reads, with OpenCLIP's defaults, and what changes nothing here
TOWER = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
INERT = {"timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout", "output_tokens", "timm_proj_bias"}


def by_name(name: str) -> Blueprint:
    """`openclip/ViT-B-32`, with the preprocessing of its weights. Some of ViT-L-14 (laion2b) and ViT-H-14 (dfn5b) were
    trained with another; their folders say so, their names here do not. Raises UnsupportedBackbone.
    """
    model = name.removeprefix(PREFIX)
    if model not in MODELS:
        raise UnsupportedBackbone(f"backbone.name must be {PREFIX} and one of {', '.join(MODELS)}, got {name!r}")
    build = partial(timm.create_model, MODELS[model], num_classes=0)
    return Blueprint(NAME, build, _preprocessing("SigLIP" in model, model in SQUASHED))


def _preprocessing(siglip: bool, squashed: bool) -> dict[str, Any]:
    return {
        **(HALF if siglip else CLIP),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash" if siglip or squashed else "center",
    }


def bare_images(name: str) -> dict[str, Any]:
    """Of a bare file under timm's name of its architecture: OpenCLIP's, for timm's own are of the weights that it
    fine-tuned for other images. A name with a tag says itself which weights they are."""
    if "." in name:
        return {}
    own = name.removeprefix("timm/")
    return _preprocessing("siglip" in own, own in {MODELS[model] for model in SQUASHED})


def read_folder(folder: Path) -> Blueprint | None:
    """`open_clip_config.json`, as `push_to_hf_hub` writes it. Raises UnsupportedBackbone."""
    config = read_json(folder / "open_clip_config.json")
    if config is None:
        return None
    place = folder / "open_clip_config.json"
    model, given = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    resize = given.get("resize_mode", "shortest")
    if resize not in ("shortest", "squash"):
        raise UnsupportedBackbone(f"{place}: resize_mode must be shortest or squash, got {resize!r}")
    return Blueprint(
        source=NAME,
        build=_builder(model, place),
        preprocessing={
            "mean": tuple(given.get("mean", CLIP["mean"])),
            "std": tuple(given.get("std", CLIP["std"])),
            "interpolation": given.get("interpolation", "bicubic"),
            "crop_pct": 1.0,
            "crop_mode": "squash" if resize == "squash" else "center",
        },
        weights=first_file(folder, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    )


def _builder(model: Mapping[str, Any], place: Path) -> Any:
    tower: dict[str, Any] = {**TOWER, **model.get("vision_cfg", {})}
    named = tower.get("timm_model_name")
    if named is not None:
        projected, pooled = tower.get("timm_proj", "linear"), tower.get("timm_pool", "avg")
        if named not in timm.list_models() or projected == "mlp" or tower.get("timm_proj_bias") or "attn" in pooled:
            rule = "a model of timm's that pools by itself, projected by none or linear without a bias"
            got = f"{named}, timm_proj {projected!r}, timm_pool {pooled!r}"
            raise UnsupportedBackbone(f"{place}: vision_cfg must be {rule}, got {got}")
        pool = {"global_pool": pooled} if pooled else {}
        classes = 0 if projected == "none" else model["embed_dim"]
        return partial(timm.create_model, named, num_classes=classes, img_size=tower["image_size"], **pool)
    default = {"pool_type": "tok", "pos_embed_type": "learnable", "block_type": "default"}
    other = [
        key for key, value in tower.items() if key not in TOWER.keys() | INERT and value and value != default.get(key)
    ]
    if other:
        raise UnsupportedBackbone(f"{place}: vision_cfg must leave out {', '.join(sorted(other))}, not known here")
    return partial(
        VisionTransformer,
        img_size=tower["image_size"],
        patch_size=tower["patch_size"],
        embed_dim=tower["width"],
        depth=tower["layers"],
        num_heads=tower["width"] // tower["head_width"],
        mlp_ratio=tower["mlp_ratio"],
        num_classes=model["embed_dim"],
        pre_norm=True,
        norm_layer=partial(LayerNorm, eps=1e-5),
        act_layer="quick_gelu" if model.get("quick_gelu") else "gelu",
    )


def options(state: State) -> dict[str, Any]:
    """The width of the embedding that images and texts share is the model's number of outputs; 0 for features."""
    if "proj" in state:
        return {"num_classes": state["proj"].shape[1]}
    projection = state.get("head.proj.weight", state.get("trunk.head.weight"))
    return {"num_classes": 0 if projection is None else projection.shape[0]}


def convert(state: State, model: nn.Module) -> State:
    converted: State = checkpoint_filter_fn(
        {f"visual.{name}": value for name, value in state.items()},
        cast(VisionTransformer, model),
    )
    return converted


FIRST = r"(?P<prefix>(?:.*?\.)??(?:visual\.)?)(?:ln_pre\.weight|trunk\.patch_embed\.proj\.weight)"


def listed() -> dict[str, Listed]:
    """Each with timm's model of the same architecture; its weights are a file or a folder."""
    return {f"{PREFIX}{name}": (by_name(f"{PREFIX}{name}").build, (f"as {model}",)) for name, model in MODELS.items()}


SOURCE = Source(NAME, FIRST, convert, options, by_name, read_folder, listed, bare_images=bare_images)
