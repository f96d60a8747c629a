"""Hugging Face's vision transformers (`transformers`), from a folder of `config.json` and weights. Needs no package.

Computed as there: `layer_norm_eps`, the activation, the classifier's pooling, and position embeddings that are
interpolated where the image processor crops to another size than the model was built for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers.mlp import SwiGLUPacked
from timm.layers.norm import LayerNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pruning.architectures.class_and_mean import ClassAndMeanViT
from pruning.checkpoints.base import WEIGHTS, Blueprint, Listed, Source, State, first_file, read_json, rename
from pruning.checkpoints.hugging_face_processor import crop_size, preprocessing
from pruning.errors import UnsupportedBackbone

NAME = "hf"
ACTIVATIONS = {  # to timm's names of them
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# what a `config.json` leaves out; `transformers` writes only what differs for the towers of CLIP and SigLIP
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
DEFAULTS: dict[str, dict[str, Any]] = {  # by `model_type`
    "vit": BASE,
    "deit": BASE,
    "dinov2": BASE | {"patch_size": 14, "layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False},
    "dinov2_with_registers": BASE
    | {"layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False, "num_register_tokens": 4},
    "clip_vision_model": BASE
    | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512},
    "siglip_vision_model": BASE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True},
}
TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}  # of a model that reads text too


@dataclass(frozen=True)
class Kind:
    """One of the classes of `transformers`: the class of timm's that computes the same, and its options.

    classes: where its number of outputs stands: `labels`, a key of the configuration, or nowhere, for features.
    """

    model_type: str
    model: Callable[..., nn.Module] = VisionTransformer
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: str | None = "labels"


PLAIN = {"global_pool": "token"}
CLIP = {"global_pool": "token", "pre_norm": True}
MAP = {"global_pool": "map", "class_token": False}
MEAN = {"global_pool": "avg", "class_token": False, "fc_norm": False}
DISTILLED = {"global_pool": "token", "reg_tokens": 1}  # a second prefix token, with a position of its own
SCALED = {"init_values": 1.0}
REGISTERS = SCALED | {"no_embed_class": True}
KINDS = {
    "ViTForImageClassification": Kind("vit", options=PLAIN),
    "ViTModel": Kind("vit", options=PLAIN, classes=None),
    "DeiTForImageClassification": Kind("deit", options=DISTILLED),
    "DeiTForImageClassificationWithTeacher": Kind("deit", VisionTransformerDistilled, PLAIN),
    "DeiTModel": Kind("deit", options=DISTILLED, classes=None),
    "Dinov2ForImageClassification": Kind("dinov2", ClassAndMeanViT, SCALED),
    "Dinov2Model": Kind("dinov2", options=PLAIN | SCALED, classes=None),
    "Dinov2WithRegistersForImageClassification": Kind("dinov2_with_registers", ClassAndMeanViT, REGISTERS),
    "Dinov2WithRegistersModel": Kind("dinov2_with_registers", options=PLAIN | REGISTERS, classes=None),
    "CLIPModel": Kind("clip_vision_model", options=CLIP, classes="projection_dim"),
    "CLIPVisionModel": Kind("clip_vision_model", options=CLIP, classes=None),
    "CLIPVisionModelWithProjection": Kind("clip_vision_model", options=CLIP, classes="projection_dim"),
    "SiglipModel": Kind("siglip_vision_model", options=MAP, classes=None),
    "SiglipVisionModel": Kind("siglip_vision_model", options=MAP, classes=None),
    "SiglipForImageClassification": Kind("siglip_vision_model", options=MEAN),
}


def read_folder(folder: Path) -> Blueprint | None:
    """`config.json` with `architectures`, as `save_pretrained` writes it. Raises UnsupportedBackbone."""
    config = read_json(folder / "config.json")
    if config is None or "architectures" not in config:
        return None
    place = folder / "config.json"
    name = (config["architectures"] or [None])[0]
    if name not in KINDS:
        raise UnsupportedBackbone(f"{place}: architectures must be one of {', '.join(KINDS)}, got {name}")
    kind = KINDS[name]
    tower = config.get("vision_config", config) if config.get("model_type") in TOWERS else config
    known: dict[str, Any] = DEFAULTS[kind.model_type] | {
        key: value for key, value in tower.items() if value is not None
    }
    if "projection_dim" in config:
        known["projection_dim"] = config["projection_dim"]
    if known["hidden_act"] not in ACTIVATIONS:
        found = repr(known["hidden_act"])
        raise UnsupportedBackbone(f"{place}: hidden_act must be one of {', '.join(ACTIVATIONS)}, got {found}")
    names = class_names(config) if kind.classes == "labels" else ()
    size = known["image_size"]
    if kind.model_type.startswith("dinov2"):  # interpolates for the images that it is given
        size = crop_size(folder) or size
    return Blueprint(
        source=NAME,
        build=partial(_build, kind, known | {"image_size": size}, len(names)),
        preprocessing=preprocessing(folder, kind.model_type, size),
        class_names=() if all(re.fullmatch(r"LABEL_\d+", each) for each in names) else names,
        weights=first_file(folder, *WEIGHTS),
    )


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """`id2label` in order; of a configuration without it, as many stand-ins as it has labels, two unless it says so."""
    labels = config.get("id2label")
    if labels is None:
        return tuple(f"LABEL_{place}" for place in range(config.get("num_labels", 2)))
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of timm's `VisionTransformer`."""
    width = int(config["hidden_size"])
    hidden = int(width * config["mlp_ratio"]) if "mlp_ratio" in config else int(config["intermediate_size"])
    options = {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "in_chans": config["num_channels"],
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": hidden / width,
        "qkv_bias": config["qkv_bias"],
        "norm_layer": partial(LayerNorm, eps=float(config["layer_norm_eps"])),
        "act_layer": ACTIVATIONS[config["hidden_act"]],
    }
    if config.get("use_swiglu_ffn"):  # two thirds of the width, rounded up to eights, and twice that for the gate
        gated = (hidden * 2 // 3 + 7) // 8 * 8
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * gated / width}
    return options


BLOCK = r"(?:encoder\.)?layers?\.(\d+)\."
NAMES = (  # of released files, and what models of transformers 5 call them in memory
    (r"embeddings\.(?:cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.(?:position_embeddings|position_embedding\.weight)", "pos_embed"),
    (r"embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
    (
        BLOCK + r"(?:attention\.|self_attn\.)+(query|key|value|[qkv]_proj)\.",
        r"blocks.\1.attn.\2.",
    ),
    (BLOCK + r"(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", r"blocks.\1.attn.proj."),
    (BLOCK + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"blocks.\1.mlp.fc1."),
    (BLOCK + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.", r"blocks.\1.mlp.fc2."),
    (BLOCK + r"(?:layernorm_before|layer_norm1|norm1)\.", r"blocks.\1.norm1."),
    (BLOCK + r"(?:layernorm_after|layer_norm2|norm2)\.", r"blocks.\1.norm2."),
    (BLOCK + r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"(?:post_)?layernorm\.", "norm."),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
    (r"(?:cls_classifier|classifier|visual_projection)\.", "head."),
    (r"distillation_classifier\.", "head_dist."),
)
TOWER = r"(?:(?:vit|deit|dinov2|dinov2_with_registers|vision_model)\.)"
# what pre-training, the text tower and buffers leave in a file, and what no classifier reads
UNREAD = r"embeddings\.(?:mask_token|position_ids)|pooler\.|text_model\.|text_projection\.|logit_(?:scale|bias)"


def convert(state: State, model: nn.Module) -> State:
    named = {re.sub(f"^{TOWER}", "", name): value for name, value in state.items()}
    found = {rename(name, NAMES): value for name, value in named.items() if not re.match(UNREAD, name)}
    found = _joined(found)
    vit: Any = model
    if vit.attn_pool is None:
        found = {name: value for name, value in found.items() if not name.startswith("attn_pool.")}
    if not hasattr(vit, "dist_token") and "dist_token" in found:
        found["reg_token"] = found.pop("dist_token")
    if "head.weight" in found and "head.bias" not in found:  # CLIP's projection
        found["head.bias"] = torch.zeros(len(found["head.weight"]))
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found:
        positions = found["pos_embed"].reshape(1, -1, found["pos_embed"].shape[-1])
        if vit.no_embed_class and "cls_token" in found:  # with registers, which have no position, the class token's own
            found["cls_token"] = found["cls_token"] + positions[:, :1]
            positions = positions[:, 1:]
        found["pos_embed"] = _interpolated(positions, vit)
    return found


def _joined(state: State) -> State:
    """Queries, keys and values as one projection; the attention pool's apart."""
    parts = ("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")
    found: State = {}
    for name, value in state.items():
        stem, _, end = name.rpartition(".")
        block, _, part = stem.rpartition(".")
        if stem == "attn_pool.qkv":
            width = len(value) // 3
            found |= {f"attn_pool.q.{end}": value[:width], f"attn_pool.kv.{end}": value[width:]}
        elif part in parts[0]:
            rows = [state.get(f"{block}.{each[parts[0].index(part)]}.{end}") for each in parts]
            found[f"{block}.qkv.{end}"] = torch.cat([each for each in rows if each is not None])
        elif part not in parts[1] + parts[2]:
            found[name] = value
    return found


def _interpolated(positions: Tensor, vit: Any) -> Tensor:
    """Position embeddings [1, P + n, D] for the model's own grid, bicubic as `interpolate_pos_encoding` has it: with
    registers and only with them it smoothes before it shrinks."""
    smooths = vit.no_embed_class
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    height, width = vit.patch_embed.grid_size
    count = positions.shape[1] - prefix
    side = round(count**0.5)
    if count == height * width or side * side != count:
        return positions
    grid = positions[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    size = height, width
    grid = nn.functional.interpolate(grid, size=size, mode="bicubic", align_corners=False, antialias=smooths)
    return torch.cat((positions[:, :prefix], grid.flatten(2).transpose(1, 2)), dim=1)


FIRST = rf"(?P<prefix>(?:.*?\.)??){TOWER}?embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.weight"


def listed() -> dict[str, Listed]:
    """The classes of `transformers`, at the size of their default configuration; their weights are a folder."""
    return {
        name: (partial(_build, kind, DEFAULTS[kind.model_type], 1000), ("a folder, or hf_hub:ORG/NAME",))
        for name, kind in KINDS.items()
    }


def _build(kind: Kind, config: Mapping[str, Any], classes: int, **given: Any) -> nn.Module:
    """The model of a configuration. Raises UnsupportedBackbone for one that no model can have."""
    if isinstance(kind.classes, str) and kind.classes in config:
        classes = config[kind.classes]
    options = {**_options(config), **kind.options, "num_classes": classes if kind.classes else 0}
    if kind.options.get("no_embed_class"):
        options["reg_tokens"] = config["num_register_tokens"]
    try:
        return kind.model(**{**options, **given})
    except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise UnsupportedBackbone(f"config.json must describe a vision transformer: {error}") from None


SOURCE = Source(
    NAME,
    FIRST,
    convert,
    options=lambda state: {},
    read_folder=read_folder,
    listed=listed,
    needs="a model of Hugging Face's, whose config.json must lie beside it",
    interpolates=True,
)
