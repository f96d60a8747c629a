"""Backbones, weights and images that are not what they should be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.bad_input.documents import FOLDER, Row, Ztp, changed

# Backbones, weights and images that are not what they should be


@pytest.fixture
def images(ztp: Ztp) -> Path:
    """Two classes of four pictures each, in the current folder."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (Path("images") / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("images") / name / f"{i}.png")
    return Path("images")


def empty_folder(images: Path) -> None:
    for path in images.rglob("*.png"):
        path.unlink()


def no_classes(images: Path) -> None:
    for path in list(images.iterdir()):
        for picture in path.iterdir():
            picture.unlink()
        path.rmdir()


def corrupt_image(images: Path) -> None:
    for i in range(4):
        (images / "dog" / f"{i}.png").write_text("no picture")


def text_as_weights(images: Path) -> None:
    Path("weights.safetensors").write_text("no weights")


def code_as_weights(images: Path) -> None:
    Path("weights.pth").write_bytes(pickle.dumps(Path))


def small_weights(images: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"head.bias": np.zeros(3, dtype=np.float32)}, "weights.safetensors")


def nothing(images: Path) -> None:
    pass


WEIGHTS = {"backbone.weights": "weights.safetensors"}
BACKBONES_AND_IMAGES: list[Row] = [
    (
        nothing,
        {"backbone.name": "vit_tiny_patch16_244"},
        "backbone",
        "got 'vit_tiny_patch16_244'",
        "vit_tiny_patch16_224",
    ),
    (nothing, {"backbone.name": "resnet18"}, "ResNet cannot be pruned", "VisionTransformer"),
    (
        nothing,
        WEIGHTS,
        "mine: backbone.weights must be",
        "existing .safetensors or .pth file",
        "got 'weights.safetensors'",
    ),
    (text_as_weights, WEIGHTS, "weights.safetensors"),
    (small_weights, WEIGHTS, "weights.safetensors", "fit"),
    (code_as_weights, {"backbone.weights": "weights.pth"}, "weights.pth must hold tensors only"),
    (
        nothing,
        {"backbone.weights": "bundled"},
        "backbone.weights must be pretrained, random or a path",
        "got bundled",
    ),
    (
        nothing,
        {"data.path": "pictures"},
        "mine: data.path must be an existing folder or file",
        "got 'pictures'",
        "check the path",
    ),
    (empty_folder, {}, "images", "data.path"),
    (no_classes, {}, "images", "data.path"),
    (
        nothing,
        {"objectives.accuracy": "top1"},
        "data.path must have labels that are classes of the backbone (1000)",
        "got 2 class names (cat, dog)",
    ),
    (nothing, {"data.search_images": 100}, "100", "8", "data."),
    (corrupt_image, {"data.search_images": 6}, "images/dog/", ".png", "skip_corrupt"),
]


@pytest.mark.parametrize("row", BACKBONES_AND_IMAGES, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_backbones_and_images(refused: Callable[..., None], images: Path, row: Row) -> None:
    spoil, changes, *words = row
    spoil(images)
    Path("study.yaml").write_text(yaml.safe_dump(changed(FOLDER, changes)))
    refused(["launch", "study.yaml"], *words)
