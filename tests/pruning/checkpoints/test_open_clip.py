"""OpenCLIP's vision towers read as timm's: each gives what OpenCLIP gives, on random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pruning.backbones import load_backbone, sketch_backbone
from pruning.checkpoints.open_clip import MODELS
from pruning.errors import UnsupportedBackbone, WeightsError

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
TOWER = {"image_size": 32, "layers": 3, "width": 128, "patch_size": 8}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token", "image_size": 160}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "CLIP": {"embed_dim": 24, "vision_cfg": TOWER, "text_cfg": TEXT},
    "OpenAI's CLIP": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": TOWER, "text_cfg": TEXT},
    "other heads": {"embed_dim": 24, "vision_cfg": TOWER | {"head_width": 32, "mlp_ratio": 2.0}, "text_cfg": TEXT},
    "timm's, projected": {"embed_dim": 24, "vision_cfg": TIMM | {"timm_proj": "linear"}, "text_cfg": TEXT},
    "timm's, features": {"embed_dim": 64, "vision_cfg": TIMM | {"timm_proj": "none"}, "text_cfg": TEXT},
    "timm's, its own head": {"embed_dim": 24, "vision_cfg": TIMM | {"timm_proj": ""}, "text_cfg": TEXT},
}


def make(config: dict[str, Any]) -> nn.Module:
    model = open_clip.CLIP(**config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data.normal_(0, scale, generator=generator)
        if name.endswith("trunk.head.bias"):
            parameter.data *= 0.1
    return model


def save(folder: Path, model: nn.Module, config: dict[str, Any], **preprocess: Any) -> None:
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.inference_mode()
def test_a_folder_gives_what_open_clip_gives(config: dict[str, Any], tmp_path: Path) -> None:
    model = make(config)
    save(tmp_path, model, config)
    found = load_backbone(str(tmp_path))
    images = torch.randn(2, *found.family.image_shape)
    torch.testing.assert_close(found.model(images), model.encode_image(images), atol=1e-4, rtol=1e-4)
    assert found.model.num_classes == found.num_classes
    assert sketch_backbone(str(tmp_path)).family == found.family


@torch.inference_mode()
def test_a_file_in_a_wrapper_and_the_tower_alone(tmp_path: Path) -> None:
    config = CONFIGURATIONS["OpenAI's CLIP"]
    model = make(config)
    save(tmp_path, model, config)
    images = torch.randn(2, 3, 32, 32)
    states = {
        "training": {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}, "epoch": 1},
        "tower": model.visual.state_dict(),
    }
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pt")
        found = load_backbone(str(tmp_path), str(tmp_path / f"{name}.pt"))
        torch.testing.assert_close(found.model(images), model.encode_image(images), atol=1e-4, rtol=1e-4)


def test_preprocessing_is_the_folders(tmp_path: Path) -> None:
    config = CONFIGURATIONS["CLIP"]
    save(tmp_path, make(config), config, mean=[0.5] * 3, std=[0.4] * 3, interpolation="bilinear", resize_mode="squash")
    found = load_backbone(str(tmp_path)).data_config
    assert (found["mean"], found["std"]) == ((0.5,) * 3, (0.4,) * 3)
    assert (found["interpolation"], found["crop_mode"], found["crop_pct"]) == ("bilinear", "squash", 1.0)
    save(tmp_path, make(config), config)
    assert sketch_backbone(str(tmp_path)).data_config["mean"] == open_clip.OPENAI_DATASET_MEAN


@pytest.mark.parametrize("name", MODELS)
def test_every_name_is_open_clips_and_has_the_shapes_of_timms(name: str) -> None:
    config = open_clip.get_model_config(name)
    tower, ours = config["vision_cfg"], sketch_backbone(f"openclip/{name}")
    assert ours.family.image_shape == (3, tower["image_size"], tower["image_size"])
    if "timm_model_name" in tower:
        assert tower["timm_model_name"] == MODELS[name]
        return
    vit = ours.model
    assert (len(vit.blocks), vit.embed_dim) == (tower["layers"], tower["width"])
    assert vit.patch_embed.patch_size[0] == tower["patch_size"]
    assert vit.blocks[0].attn.head_dim == tower.get("head_width", 64)
    assert vit.blocks[0].mlp.fc1.out_features == int(tower["width"] * tower.get("mlp_ratio", 4))
    assert type(vit.blocks[0].mlp.act).__name__ == ("QuickGELU" if config.get("quick_gelu") else "GELU")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "attention pool": ({"vision_cfg": TOWER | {"attentional_pool": True}}, r"must leave out attentional_pool"),
    "another pool": ({"vision_cfg": TOWER | {"pool_type": "avg"}}, r"must leave out pool_type"),
    "an MLP": (
        {"vision_cfg": TIMM | {"timm_proj": "mlp"}},
        r"projected by none or linear .*got test_vit, timm_proj 'mlp'",
    ),
    "no model": ({"vision_cfg": TIMM | {"timm_model_name": "vit_x"}}, r"got vit_x"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_towers_that_are_not_known_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    document = {"model_cfg": {"embed_dim": 24, "text_cfg": TEXT} | change}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedBackbone, match=message):
        load_backbone(str(tmp_path))


def test_names_and_missing_weights_are_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match=r"must be openclip/ and one of ViT-B-32, .*got 'openclip/ViT-B-8'"):
        load_backbone("openclip/ViT-B-8")
    with pytest.raises(WeightsError, match=r"weights must be a file or a folder for openclip/ViT-B-32"):
        load_backbone("openclip/ViT-B-32")
