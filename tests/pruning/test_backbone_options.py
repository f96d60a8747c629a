"""What a study may ask of a backbone: images that are not square, channels, pooling, preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from pruning.backbone_options import RULES, given_options
from pruning.backbones import load_backbone, sketch_backbone
from pruning.errors import UnsupportedBackbone, WeightsError
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage

SMALL = "test_vit"  # 6 blocks of width 64 at 160 px, patches of 16, class token: timm's own test model


def noise(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(3)
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


@pytest.mark.parametrize("name", [SMALL, "test_vit3", "eva02_tiny_patch14_224"])
def test_images_need_not_be_square(name: str) -> None:
    patch = 14 if "eva" in name else 16
    size = (4 * patch, 6 * patch)
    found = load_backbone(name, "random", img_size=list(size))
    assert found.family.image_shape == tuple(found.data_config["input_size"]) == (3, *size)
    assert (found.family.tokens, found.options) == (24, {"img_size": size})
    assert prune(found.model, Schedule([Stage(1, 0.5)]))(noise(3, *size)).isfinite().all()
    sketch = sketch_backbone(name, img_size=list(size))
    assert (sketch.family, sketch.identity) == (found.family, found.identity)
    with pytest.raises(UnsupportedBackbone, match=rf"must be a multiple of the patch size, {patch}, .*got \(100, "):
        load_backbone(name, "random", img_size=[100, 6 * patch])


def test_grey_images_take_the_sum_of_the_colours_kernels(weights: str) -> None:
    """As timm adapts pretrained weights: an image of three equal channels gives what its one channel gives."""
    colour = load_backbone(SMALL, weights)
    grey = load_backbone(SMALL, weights, in_chans=1, mean=[0.5], std=[0.25])
    assert grey.family.image_shape == tuple(grey.data_config["input_size"]) == (1, 160, 160)
    assert (grey.data_config["mean"], grey.data_config["std"]) == ((0.5,), (0.25,))
    images = noise(1, 160, 160)
    torch.testing.assert_close(grey.model(images), colour.model(images.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)
    assert sketch_backbone(SMALL, in_chans=1, mean=0.5, std=0.25).family == grey.family


def test_grey_images_for_a_folder_as_weights(tmp_path: Path) -> None:
    save_for_hf(timm.create_model(SMALL), tmp_path, safe_serialization=True)
    colour = load_backbone(SMALL, str(tmp_path))
    grey = load_backbone(SMALL, str(tmp_path), in_chans=1, mean=0.5, std=0.5)
    images = noise(1, 160, 160)
    torch.testing.assert_close(grey.model(images), colour.model(images.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_the_pooling_of_eva_can_be_changed() -> None:
    images = noise(3, 56, 56)
    own, mean = (load_backbone("eva02_tiny_patch14_224", "random", img_size=56, **pool) for pool in POOLINGS)
    assert not own.model(images).allclose(mean.model(images), atol=1e-3)


POOLINGS: tuple[dict[str, Any], ...] = ({"global_pool": "token"}, {"global_pool": "avg"})


def test_weights_of_grey_images_say_so_themselves(tmp_path: Path) -> None:
    model = timm.create_model(SMALL, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = load_backbone(SMALL, str(tmp_path / "w.pth"), mean=0.5, std=0.5)
    assert found.family.image_shape == (1, 160, 160)
    torch.testing.assert_close(found.model(noise(1, 160, 160)), model.eval()(noise(1, 160, 160)))
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight is \(64, 1, 16, 16\), not \(64, 3, 16, 16\)"):
        load_backbone(SMALL, str(tmp_path / "w.pth"), in_chans=3)


def test_a_mean_for_each_colour_does_not_serve_grey_images() -> None:
    vit = "vit_tiny_patch16_224"  # 0.5 for each colour
    assert sketch_backbone(vit, in_chans=1).data_config["mean"] == (0.5,)
    with pytest.raises(UnsupportedBackbone, match=r"mean must be one number for a model of one channel, got \[0\.4"):
        sketch_backbone("deit_tiny_patch16_224", in_chans=1)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_a_head_fine_tuned_on_another_pooling(weights: str, pool: str) -> None:
    """Its norm stands before the pooling, which weights do not tell from one on the class token."""
    expected = timm.create_model(SMALL, global_pool=pool, fc_norm=False).eval()
    expected.load_state_dict(torch.load(weights))
    found = load_backbone(SMALL, weights, global_pool=pool)
    torch.testing.assert_close(found.model(noise(3, 160, 160)), expected(noise(3, 160, 160)))
    assert found.identity == f"{SMALL} global_pool={pool}"


def test_where_the_pooling_cannot_be_changed() -> None:
    for name, pool, rule in (
        (
            "vit_base_patch16_siglip_224",
            "avg",
            r"must be left out for vit_base.*, which pools in a way",
        ),
        ("deit_tiny_distilled_patch16_224", "avg", "must be left out for deit_tiny_distilled_patch16_224"),
        ("vit_base_patch16_siglip_gap_224", "token", "must not be token .* has no class token"),
    ):
        with pytest.raises(UnsupportedBackbone, match=rf"backbone\.global_pool {rule}"):
            sketch_backbone(name, global_pool=pool)


PREPROCESSING = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "crop_pct": 0.8,
    "crop_mode": "squash",
    "interpolation": "bilinear",
}


def test_preprocessing_that_is_asked_for_is_had_and_makes_another_backbone() -> None:
    own = sketch_backbone(SMALL)
    found = sketch_backbone(SMALL, **PREPROCESSING)
    assert {key: found.data_config[key] for key in PREPROCESSING} == PREPROCESSING
    assert found.preprocessing == {**PREPROCESSING, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert own.normalisation == ""
    assert "mean=(0.1, 0.2, 0.3)" in found.normalisation
    assert own.identity != found.identity


def test_a_folders_normalisation_is_part_of_its_identity(tmp_path: Path) -> None:
    """Its name stays the same when somebody edits it."""
    vit = {"architectures": ["ViTModel"], "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2}
    vit |= {"num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(vit))
    before = sketch_backbone(str(tmp_path)).identity
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    assert sketch_backbone(str(tmp_path)).identity != before


BAD: list[tuple[str, Any, str]] = [
    ("img_size", 0, "must be at least 1, got 0"),
    ("img_size", 20_000, "must be at most 16384, got 20000"),
    ("img_size", True, "must be a whole number of pixels, got True"),
    ("img_size", [224], r"must be a whole number of pixels, or \[height, width\], got \[224\]"),
    ("img_size", [224, 0.5], r"must be a whole number of pixels, got \[224, 0\.5\]"),
    ("patch_size", [8, 8], "must be a whole number of pixels"),
    ("in_chans", 4, "must be one of 1, 3, got 4"),
    ("in_chans", True, "must be one of 1, 3, got True"),
    ("global_pool", "map", "must be one of token, avg, max, avgmax, got 'map'"),
    ("mean", [0.5, 0.5], "must be a list of 1 or 3 numbers"),
    ("mean", [0.5, "a", 0.5], "must be a list of 1 or 3 numbers"),
    ("mean", [-0.5], "must be a list of 1 or 3 numbers, of pixels in 0..1, from 0, got"),
    ("std", [0.0], "must be a list of 1 or 3 numbers, of pixels in 0..1, above 0, got"),
    ("std", [58.4, 57.1, 57.4], ".*of pixels in 0..1"),  # of pixels in 0..255
    ("std", [float("nan")], "must be a list"),
    ("crop_pct", 87.5, r"must be in \(0, 1\], .*got 87\.5"),
    ("crop_mode", "random", "must be one of center, squash, border, got 'random'"),
    ("interpolation", "cubic", "must be one of nearest, bilinear, bicubic, box, hamming, lanczos, got 'cubic'"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_values_that_nothing_can_have(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{name} {rule}"):
        given_options({name: value})
    with pytest.raises(UnsupportedBackbone, match=rf"backbone\.{name} {rule}"):
        load_backbone(SMALL, "random", **{name: value})


def test_unknown_options_and_those_of_the_demo() -> None:
    with pytest.raises(UnsupportedBackbone, match=r"backbone\.image_size is not a known option; known: img_size, "):
        load_backbone(SMALL, "random", image_size=96)
    with pytest.raises(UnsupportedBackbone, match=r"backbone\.mean must be left out for demo"):
        load_backbone("demo", mean=0.5)
    assert given_options(dict.fromkeys(RULES)) == {}
