"""torchvision's vision transformers read as timm's: each gives what torchvision gives, on random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.vision_transformer import VisionTransformer

from pruning.backbones import load_backbone, sketch_backbone
from pruning.checkpoints import torchvision_models
from pruning.errors import UnsupportedBackbone, WeightsError


def drawn(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data.normal_(0, scale, generator=generator)
    return model.eval()


@torch.inference_mode()
def test_the_names_are_timms_of_the_same_weights() -> None:
    theirs = drawn(VisionTransformer(48, 8, 3, 2, 32, 48, num_classes=5))
    options = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 1.5, "num_classes": 5}
    ours = timm.models.VisionTransformer(img_size=48, norm_layer=partial_norm, **options).eval()
    ours.load_state_dict(torchvision_models.convert(theirs.state_dict(), ours))
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-4)
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2") for name in theirs.state_dict()}
    converted = torchvision_models.convert(dict.fromkeys(old, torch.ones(1)), ours)
    assert converted.keys() == ours.state_dict().keys()  # as files of before torchvision 0.13 have them


def partial_norm(width: int, **options: object) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


@pytest.mark.parametrize("name", torchvision_models.MODELS)
def test_every_model_has_the_shapes_of_timms(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    size = sketch_backbone(f"torchvision/{name}").family.image_shape[1]
    if size != 224:
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name, image_size=size)
    sketch = sketch_backbone(f"torchvision/{name}").model
    state = torchvision_models.convert(theirs.state_dict(), sketch)
    shapes = {key: value.shape for key, value in sketch.state_dict().items()}
    assert {key: value.shape for key, value in state.items()} == shapes
    assert sketch.blocks[0].attn.num_heads == theirs.encoder.layers[0].self_attention.num_heads
    assert sketch.blocks[0].norm1.eps == theirs.encoder.layers[0].ln_1.eps


TAGS = [(model, each.name) for model in torchvision_models.MODELS for each in get_model_weights(model)]


@pytest.mark.parametrize(("model", "tag"), TAGS)
def test_preprocessing_is_that_of_the_weights(model: str, tag: str) -> None:
    """SWAG's at 384, 512 and 518 pixels among them."""
    found = sketch_backbone(f"torchvision/{model}.{tag}")
    expected = get_model_weights(model)[tag].transforms()
    config = found.data_config
    assert found.family.image_shape == tuple(config["input_size"]) == (3, expected.crop_size[0], expected.crop_size[0])
    assert math.floor(expected.crop_size[0] / config["crop_pct"]) == expected.resize_size[0]
    assert (config["mean"], config["std"]) == (tuple(expected.mean), tuple(expected.std))
    assert (config["interpolation"], config["crop_mode"]) == (expected.interpolation.value, "center")


@pytest.mark.slow
def test_a_file_gives_what_torchvision_gives(tmp_path: Path) -> None:
    theirs = drawn(torchvision.models.vit_b_32(num_classes=7, image_size=256))
    path = tmp_path / "model_7.pth"
    torch.save({"model": theirs.state_dict(), "epoch": 3}, path)  # as torchvision's references/classification saves
    found = load_backbone("torchvision/vit_b_32", str(path), img_size=256)
    assert (found.num_classes, found.weights_key, found.class_names) == (7, "model", ())
    images = torch.randn(2, 3, 256, 256)
    with torch.inference_mode():
        torch.testing.assert_close(found.model(images), theirs(images), atol=1e-4, rtol=1e-4)


def test_its_weights_are_not_taken_for_timms(tmp_path: Path) -> None:
    """Neither their preprocessing nor their image size is that of timm's model of the same shape."""
    torch.save({"conv_proj.weight": torch.ones(4, 3, 8, 8)}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"torchvision's, so that backbone\.name must be torchvision/ and one of vit_b_16"
    ):
        load_backbone("test_vit", str(tmp_path / "w.pth"))


def test_classes_have_their_names() -> None:
    found = torchvision_models.by_name("torchvision/vit_b_16")
    assert (len(found.class_names), found.class_names[0]) == (1000, "tench")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/vit_b_8", r"must be torchvision/ and one of vit_b_16, .*got 'torchvision/vit_b_8'"),
        ("torchvision/vit_b_32.SWAG", r"must end in one of IMAGENET1K_V1, got 'torchvision/vit_b_32\.SWAG'"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=message):
        load_backbone(name, "random")


def test_no_download_is_a_weights_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    with pytest.raises(WeightsError, match=r"pretrained weights of torchvision/vit_b_32 could not be downloaded"):
        load_backbone("torchvision/vit_b_32")
