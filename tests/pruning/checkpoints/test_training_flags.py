"""What a training script kept beside the weights: images as in training, and a warning where the model is another."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import save_for_hf

from pruning.backbones import Backbone, load_backbone
from pruning.checkpoints.open_clip import SOURCE
from pruning.checkpoints.training_flags import preprocessing_of

SMALL = "test_vit"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TIMM = {"model": SMALL, "img_size": None, "input_size": None, "gp": None, "lr": 1e-3, "train_interpolation": "random"}
TIMM |= {"mean": None, "std": None, "crop_pct": None, "interpolation": ""}  # as timm's train.py leaves them


def save(path: Path, args: Any, **model: Any) -> str:
    torch.save({"state_dict": timm.create_model(SMALL, **model).state_dict(), "args": args}, path)
    return str(path)


def facts(found: Backbone) -> dict[str, Any]:
    return {key: found.data_config[key] for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")}


GIVEN = {"mean": [0.1, 0.2, 0.3], "std": [0.4], "crop_pct": 0.8, "interpolation": "bilinear"}
SCRIPTS: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {
    "timm's": (TIMM | GIVEN, {"mean": (0.1, 0.2, 0.3), "std": (0.4,), "crop_pct": 0.8, "interpolation": "bilinear"}),
    "timm's, of another tag": (
        TIMM | {"model": "vit_base_patch16_224.dino"},
        {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.9},
    ),
    "DeiT's": ({"eval_crop_ratio": 0.8}, {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.8}),
    "BEiT's": (
        {"imagenet_default_mean_and_std": True, "crop_pct": 0.7},
        {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.7},
    ),
    "torchvision's": (
        {"val_resize_size": 200, "val_crop_size": 160, "interpolation": "bilinear"},
        {"mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.8, "interpolation": "bilinear"},
    ),
}


@pytest.mark.parametrize("kind", [argparse.Namespace, dict])
@pytest.mark.parametrize(("flags", "expected"), SCRIPTS.values(), ids=SCRIPTS)
def test_images_are_those_of_training(
    tmp_path: Path, kind: Any, flags: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    plain = load_backbone(SMALL, "random")
    found = load_backbone(SMALL, save(tmp_path / "w.pth.tar", kind(**flags)))
    assert facts(found) == facts(plain) | expected
    assert (found.identity == plain.identity) == (found.data_config["mean"] == plain.data_config["mean"])
    asked = load_backbone(SMALL, str(tmp_path / "w.pth.tar"), mean=[0.6], crop_pct=0.5)
    assert facts(asked) == facts(found) | {"mean": (0.6,), "crop_pct": 0.5}  # what is asked for goes first


def test_as_timm_resolves_its_flags(tmp_path: Path) -> None:
    """And those that say nothing leave another model's record as it was."""
    flags = TIMM | GIVEN | {"std": [0.4, 0.5, 0.6]}
    theirs = resolve_data_config(flags, model=timm.create_model(SMALL))
    found = load_backbone(SMALL, save(tmp_path / "w.pth", argparse.Namespace(**flags)))
    assert facts(found) == {key: theirs[key] for key in facts(found)}
    silent, plain = (
        load_backbone(SMALL, save(tmp_path / "s.pth", argparse.Namespace(**TIMM))),
        load_backbone(SMALL, "random"),
    )
    assert (facts(silent), silent.identity) == (facts(plain), plain.identity)


@pytest.mark.parametrize(
    "flags",
    [
        {"val_resize_size": None, "val_crop_size": 160, "interpolation": "bicubic"},
        {"val_resize_size": [200], "val_crop_size": 160, "interpolation": "bicubic"},
        {"val_resize_size": 200, "val_crop_size": 0, "interpolation": "bicubic"},
        TIMM | {"model": f"{SMALL}.of_a_later_timm"},
    ],
)
def test_flags_that_say_too_little_keep_nothing_from_being_loaded(tmp_path: Path, flags: Mapping[str, Any]) -> None:
    found = load_backbone(SMALL, save(tmp_path / "w.pth", argparse.Namespace(**flags)))
    assert found.data_config["crop_pct"] == load_backbone(SMALL, "random").data_config["crop_pct"]


def test_the_models_tag_says_what_flags_do_not(tmp_path: Path) -> None:
    """With timm's own prefix or without."""
    name = "vit_base_patch16_224.dino"  # whose mean is not the one of timm's first tag for the architecture
    mean = timm.get_pretrained_cfg(name).mean
    for model in (name, f"timm/{name}"):
        found = preprocessing_of(TIMM | {"model": model}, tmp_path)
        assert found["mean"] == mean


WARNED: dict[str, tuple[Mapping[str, Any], str]] = {
    "a script that nobody knows": ({"crop_pct": 0.7}, "its args have crop_pct 0.7, not used"),
    "a value that nothing can have": (TIMM | {"mean": [123.7]}, r"its args have mean [123.7], which must be a list"),
    "another size": (TIMM | {"img_size": 96}, "img_size 96, and is loaded for 160: say backbone.img_size: 96"),
    "another size, of DeiT's": ({"eval_crop_ratio": 0.8, "input_size": 96}, "say backbone.img_size: 96"),
    "another pooling": (
        TIMM | {"gp": "max"},
        "global_pool max, and is loaded with token: say backbone.global_pool: max",
    ),
    "another model": (
        TIMM | {"model": "vit_tiny_patch16_224"},
        f"trained as vit_tiny_patch16_224, and is loaded as {SMALL}: say so as backbone.name",
    ),
}


@pytest.mark.parametrize(("flags", "message"), WARNED.values(), ids=WARNED)
def test_what_cannot_be_used_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: Mapping[str, Any], message: str
) -> None:
    load_backbone(SMALL, save(tmp_path / "w.pth", argparse.Namespace(**flags)))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message in warning
    assert str(tmp_path / "w.pth") in warning


def test_a_file_that_is_its_folders_own_stands_for_the_folder(tmp_path: Path) -> None:
    """Its config.json lies beside it: other images than timm has for the name, and classes by name."""
    model = timm.create_model(SMALL, num_classes=3)
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3)}
    save_for_hf(model, tmp_path, model_config={"label_names": ["cat", "dog", "eel"]}, safe_serialization=True)
    folder, file = load_backbone(SMALL, str(tmp_path)), load_backbone(SMALL, str(tmp_path / "model.safetensors"))
    assert facts(file) == facts(folder)
    assert file.data_config["mean"] == (0.1, 0.2, 0.3)
    assert (file.class_names, file.identity) == (folder.class_names, folder.identity)
    assert file.identity != load_backbone(SMALL, "random").identity
    (tmp_path / "config.json").write_text('{"architectures": ["Unheard"]}')
    assert facts(load_backbone(SMALL, str(tmp_path / "model.safetensors"))) == facts(load_backbone(SMALL, "random"))


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"architecture": "vit_tiny_patch16_224"}, "it has blocks 12, not "),
        ({"architectures": {"a": 1}}, ""),
        ({"architecture": SMALL, "pretrained_cfg": None}, ""),
        ({"architectures": ["ViTForImageClassification"], "hidden_act": []}, ""),
    ],
)
def test_what_lies_beside_a_file_keeps_it_from_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, configuration: Mapping[str, Any], said: str
) -> None:
    save_for_hf(timm.create_model(SMALL), tmp_path, safe_serialization=True)
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    assert facts(load_backbone(SMALL, str(tmp_path / "model.safetensors"))) == facts(load_backbone(SMALL, "random"))
    assert said in caplog.text


def test_a_bare_file_of_open_clips_has_its_images_under_timms_name() -> None:
    """Whose own are of the weights that it fine-tuned for others; a tag says which weights they are."""
    name = "vit_large_patch14_clip_224"  # timm's first tag has a mean of 0.5
    assert SOURCE.bare_images is not None
    bare = SOURCE.bare_images(name)
    assert bare["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert (bare["crop_pct"], bare["crop_mode"]) == (1.0, "center")
    assert SOURCE.bare_images("vit_base_patch16_siglip_224")["mean"] == (0.5, 0.5, 0.5)
    assert SOURCE.bare_images("vit_huge_patch14_clip_quickgelu_378")["crop_mode"] == "squash"
    assert SOURCE.bare_images(f"{name}.laion2b") == {}


def test_a_bare_tower_is_loaded_with_open_clips_images(tmp_path: Path) -> None:
    tower = open_clip.CLIP(
        embed_dim=512,
        vision_cfg={"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        text_cfg={"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 1},
    ).visual
    torch.save(tower.state_dict(), tmp_path / "tower.pt")
    found = load_backbone("vit_base_patch32_clip_224", str(tmp_path / "tower.pt"))
    expected = load_backbone("openclip/ViT-B-32", str(tmp_path / "tower.pt"))
    assert facts(found) == facts(expected)
    assert found.fingerprint == expected.fingerprint
