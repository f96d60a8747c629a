"""What models of other libraries have done to an image, against the library's own preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from pruning.backbones import sketch_backbone
from pruning.checkpoints.open_clip import MODELS
from pruning.checkpoints.sources import find_blueprint
from search.evaluation.data.preprocessing import Preprocessing

transformers, open_clip = pytest.importorskip("transformers"), pytest.importorskip("open_clip")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PROCESSORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT's": ("ViTConfig", "ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "DeiT's": (
        "DeiTConfig",
        "DeiTImageProcessorPil",
        {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
    "CLIP's": ("CLIPVisionConfig", "CLIPImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "SigLIP's": ("SiglipVisionConfig", "SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "DINOv2's": ("Dinov2Config", "BitImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": 32}),
}
ARCHITECTURES = {"CLIPVisionConfig": "CLIPVisionModel", "SiglipVisionConfig": "SiglipVisionModel"}


@pytest.mark.parametrize(("config", "processor", "options"), PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("size", [(48, 64), (70, 41), (32, 32)])
def test_pixels_are_those_of_its_own_processor(
    config: str, processor: str, options: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    patch = 8 if config == "Dinov2Config" else 16
    described = getattr(transformers, config)(**SMALL, image_size=32, patch_size=patch)
    described.architectures = [ARCHITECTURES.get(config, config.replace("Config", "Model"))]
    described.save_pretrained(tmp_path)
    theirs = getattr(transformers, processor)(**options)
    theirs.save_pretrained(tmp_path)
    image = picture(size)
    check(str(tmp_path), image, theirs(image, return_tensors="pt")["pixel_values"][0])


def picture(size: tuple[int, int]) -> Image.Image:
    """Smooth, as photographs are."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def check(backbone: str, image: Image.Image, expected: Tensor) -> None:
    """Equal to a level of grey."""
    config = sketch_backbone(backbone).data_config
    pixels = torch.from_numpy(Preprocessing(config)(image)).float() / 255
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    assert pixels.shape == expected.shape
    assert ((pixels - mean) / std - expected).abs().max() <= 1.01 / 255 / min(config["std"])


@pytest.mark.parametrize("tag", ["vit_b_32.IMAGENET1K_V1", "vit_l_16.IMAGENET1K_V1", "vit_b_16.IMAGENET1K_SWAG_E2E_V1"])
@pytest.mark.parametrize("size", [(480, 640), (260, 200)])
def test_pixels_are_those_of_torchvisions_weights(tag: str, size: tuple[int, int]) -> None:
    model, _, weights = tag.partition(".")
    image = picture(size)
    check(f"torchvision/{tag}", image, torchvision.models.get_model_weights(model)[weights].transforms()(image))


OTHERWISE = {("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-H-14", "dfn5b"), ("ViT-H-14-quickgelu", "dfn5b")}


@pytest.mark.parametrize("name", MODELS)
def test_names_of_open_clip_have_the_preprocessing_of_their_weights(name: str) -> None:
    """But for the few weights that the docs name."""
    own = find_blueprint(f"openclip/{name}").preprocessing
    for tag in open_clip.list_pretrained_tags_by_model(name):
        theirs = open_clip.get_pretrained_cfg(name, tag)
        is_equal = (own["mean"], own["std"], own["interpolation"], own["crop_mode"]) == (
            *(tuple(theirs[key]) for key in ("mean", "std")),
            theirs["interpolation"],
            {"shortest": "center", "squash": "squash"}[theirs["resize_mode"]],
        )
        assert is_equal == ((name, tag) not in OTHERWISE), tag


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_open_clip(resize_mode: str, interpolation: str, tmp_path: Path) -> None:
    tower = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    given = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    document = {"model_cfg": {"embed_dim": 8, "vision_cfg": tower}, "preprocess_cfg": given}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    image = picture((60, 45))
    check(str(tmp_path), image, open_clip.image_transform(32, is_train=False, **given)(image))
