"""Backbones at image and patch sizes that are not their own: what is resampled, what is refused, what differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pruning.backbones import load_backbone, sketch_backbone
from pruning.errors import UnsupportedBackbone, WeightsError
from pruning.flops import FlopCounter
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage

SMALL = "test_vit"  # 6 blocks of width 64 at 160 px, patches of 16, class token: timm's own test model
RESIZABLE = ("test_vit3", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224")


@pytest.mark.parametrize(
    ("sizes", "shape", "tokens"),
    [
        ({}, (3, 160, 160), 100),
        ({"img_size": 96}, (3, 96, 96), 36),
        ({"patch_size": 32}, (3, 160, 160), 25),
        ({"img_size": 96, "patch_size": 8}, (3, 96, 96), 144),
    ],
)
def test_the_model_takes_images_of_the_size_and_says_so(
    sizes: dict[str, int], shape: tuple[int, int, int], tokens: int
) -> None:
    found = load_backbone(SMALL, "random", **sizes)
    assert found.family.image_shape == tuple(found.data_config["input_size"]) == shape
    assert found.family.tokens == tokens
    assert found.options == sizes
    assert found.model(torch.randn(1, *shape)).shape == (1, 1000)


def test_pruning_at_another_size_keeps_what_it_says() -> None:
    from pruning.model import prune

    model = load_backbone(SMALL, "random", img_size=96).model
    images = torch.randn(2, 3, 96, 96)
    assert prune(model, Schedule([Stage(1, 0.5)]))(images).shape == (2, 1000)
    assert prune(model, UNTOUCHED)(images).equal(model(images))


def test_weights_are_resampled_as_timm_resamples_a_checkpoint(tmp_path: Path) -> None:
    """Against the other way timm has: a model built at the size, and its filter for checkpoints."""
    native = timm.create_model(SMALL)
    save_file(native.state_dict(), tmp_path / "weights.safetensors")
    found = load_backbone(SMALL, str(tmp_path / "weights.safetensors"), img_size=96, patch_size=8)
    built = timm.create_model(SMALL, img_size=96, patch_size=8)
    filtered = sys.modules["timm.models.vision_transformer"].checkpoint_filter_fn(native.state_dict(), built)
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, filtered[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_file_made_for_the_size_is_loaded_as_it_is(tmp_path: Path) -> None:
    made = timm.create_model(SMALL, img_size=96)
    path = tmp_path / "weights.safetensors"
    save_file(made.state_dict(), path)
    found = load_backbone(SMALL, str(path), img_size=96)
    assert all(value.equal(made.state_dict()[name]) for name, value in found.model.state_dict().items())
    with pytest.raises(WeightsError, match=r"in 1 places: pos_embed is .*say backbone\.img_size: 96"):
        load_backbone(SMALL, str(path), img_size=128)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESIZABLE)
def test_families_can_be_resized(name: str) -> None:
    own = load_backbone(name, "random")
    side = 6 * (own.family.image_shape[1] // round(own.family.tokens**0.5))
    assert load_backbone(name, "random", img_size=side).family.tokens == 36  # and driven exactly, or it is refused


def test_the_same_weights_at_another_size_are_another_backbone() -> None:
    own, smaller = load_backbone(SMALL, "random"), load_backbone(SMALL, "random", img_size=96)
    assert own.identity == SMALL
    assert smaller.identity == f"{SMALL} img_size=96"
    assert own.fingerprint != smaller.fingerprint


@pytest.mark.parametrize(
    ("name", "sizes", "rule"),
    [
        (SMALL, {"img_size": 100}, r"backbone\.img_size must be a multiple of the patch size, 16, .*got 100.*is 96$"),
        (SMALL, {"img_size": 16}, r"img_size must be a multiple of the patch size, 16, with two patches a side"),
        (SMALL, {"patch_size": 15}, r"backbone\.patch_size must be a divisor of the image size, 160, .*got 15$"),
        (SMALL, {"img_size": 96, "patch_size": 10}, r"img_size must be a multiple of the patch size, 10"),
        ("demo", {"img_size": 56}, r"backbone\.img_size must be left out for demo, got"),
        ("beit_base_patch16_224", {"img_size": 96}, r"left out for beit.*, whose tables of relative positions cannot"),
        ("resnet18", {"img_size": 96}, r"backbone of type ResNet cannot be pruned"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, sizes: dict[str, int], rule: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=rule):
        load_backbone(name, "random", **sizes)


def test_refused_before_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnsupportedBackbone, match="img_size must be a multiple"):
        load_backbone("deit_tiny_patch16_224.fb_in1k", "pretrained", img_size=100)


def test_random_numbers_of_the_caller_stay_as_they_were() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load_backbone(SMALL, "random", patch_size=32)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize(("name", "sizes"), [("demo", {}), (SMALL, {}), (SMALL, {"img_size": 96, "patch_size": 8})])
def test_a_sketch_says_of_a_backbone_all_but_its_weights(name: str, sizes: dict[str, int]) -> None:
    real, sketch = load_backbone(name, "random", **sizes), sketch_backbone(name, **sizes)
    for field in ("name", "family", "num_classes", "options", "identity", "data_config"):
        assert getattr(sketch, field) == getattr(real, field)
    assert FlopCounter(sketch.model).count(Schedule()) == FlopCounter(real.model).count(Schedule())
    assert all(value.is_meta for value in sketch.model.parameters())
