"""Models of `transformers`, saved and read as timm's: each gives what its own library gives, on random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pruning.backbones import load_backbone, sketch_backbone
from pruning.checkpoints.hugging_face import DEFAULTS, KINDS
from pruning.errors import UnsupportedBackbone, WeightsError
from pruning.flops import count_flops, trace_flops
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
DINO = SMALL | {"image_size": 56, "patch_size": 14, "mlp_ratio": 3}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def logits(found: Any) -> Tensor:
    return found.logits


def pooled(found: Any) -> Tensor:
    return found.pooler_output


def class_token(found: Any) -> Tensor:
    return found.last_hidden_state[:, 0]


Output = Callable[[Any], Tensor]
MODELS: dict[str, tuple[str, dict[str, Any], Output]] = {  # class: its configuration, what to compare
    "ViTForImageClassification": ("ViTConfig", SMALL | {"num_labels": 5}, logits),
    "ViTModel": ("ViTConfig", SMALL, class_token),
    "DeiTForImageClassification": ("DeiTConfig", SMALL | {"num_labels": 5}, logits),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", SMALL | {"num_labels": 5}, logits),
    "DeiTModel": ("DeiTConfig", SMALL, class_token),
    "Dinov2ForImageClassification": ("Dinov2Config", DINO | {"num_labels": 5}, logits),
    "Dinov2Model": ("Dinov2Config", DINO | {"use_swiglu_ffn": True, "mlp_ratio": 4}, pooled),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", DINO | {"num_labels": 5}, logits),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", DINO, pooled),
    "CLIPModel": ("CLIPConfig", {"vision_config": SMALL, "text_config": TEXT, "projection_dim": 24}, logits),
    "CLIPVisionModel": ("CLIPVisionConfig", SMALL, pooled),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", SMALL | {"projection_dim": 24}, logits),
    "SiglipModel": ("SiglipConfig", {"vision_config": SMALL, "text_config": TEXT}, pooled),
    "SiglipVisionModel": ("SiglipVisionConfig", SMALL, pooled),
    "SiglipForImageClassification": (
        "SiglipConfig",
        {"vision_config": SMALL, "text_config": TEXT, "num_labels": 5},
        logits,
    ),
}
SCHEDULE = Schedule([Stage(0, 0.7, 3), Stage(1, 0.6)])


def make(name: str, **other: Any) -> nn.Module:
    """Every weight is drawn anew: what is initialised to zero or to one would hide a part that is left out."""
    config, options, _ = MODELS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**{**options, **other}))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data.normal_(0, scale, generator=generator)
    return model.eval()


@torch.inference_mode()
def answer(name: str, model: Any, images: Tensor, **options: Any) -> Tensor:
    if name == "CLIPModel":
        return model.get_image_features(images).pooler_output
    if name == "SiglipModel":
        return model.vision_model(images).pooler_output
    found = model(images, **options)
    return found.image_embeds if name == "CLIPVisionModelWithProjection" else MODELS[name][2](found)


def noise(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def test_every_kind_is_tested() -> None:
    assert MODELS.keys() == KINDS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path))
    images = noise(*found.family.image_shape)
    torch.testing.assert_close(found.model(images), answer(name, model, images), atol=1e-5, rtol=1e-4)
    assert found.model(images).shape[1] == (found.num_classes or 32)
    sketch = sketch_backbone(str(tmp_path))
    assert (sketch.family, sketch.data_config) == (found.family, found.data_config)
    pruned = prune(found.model, SCHEDULE)
    assert not pruned(images).allclose(found.model(images), atol=1e-4)


@pytest.mark.parametrize("name", ["Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"])
def test_a_classifier_of_the_class_token_and_the_mean_is_counted_and_pruned(name: str, tmp_path: Path) -> None:
    """timm has no such pooling, so that it is a class of ours."""
    make(name).save_pretrained(tmp_path)
    model = load_backbone(str(tmp_path)).model
    assert count_flops(model, SCHEDULE) == trace_flops(model, SCHEDULE)
    merging = Schedule([Stage(0, 0.75, method="tome"), Stage(1, 0.6, method="tome")])
    images = noise(3, 56, 56)
    assert prune(model, merging)(images).isfinite().all()
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    with pytest.raises(ValueError, match="global_pool must be avg, got 'token'"):
        model.reset_classifier(3, "token")


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification", "DeiTModel"])
def test_weights_under_the_names_of_a_model_in_memory(name: str, tmp_path: Path) -> None:
    """As a training script saves them with torch.save, in a wrapper, beside the configuration."""
    model = make(name)
    model.config.architectures = [name]
    model.config.save_pretrained(tmp_path)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    found = load_backbone(str(tmp_path), str(tmp_path / "last.ckpt"))
    images = noise(*found.family.image_shape)
    torch.testing.assert_close(found.model(images), answer(name, model, images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification"])
def test_weights_of_the_pruned_model_after_fine_tuning(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    pruned = prune(load_backbone(str(tmp_path)).model, SCHEDULE)
    with torch.no_grad():
        pruned.backbone.head.weight.mul_(2)
    torch.save(pruned.state_dict(), tmp_path / "tuned.pth")
    found = load_backbone(str(tmp_path), str(tmp_path / "tuned.pth"))
    images = noise(*found.family.image_shape)
    torch.testing.assert_close(prune(found.model, SCHEDULE)(images), pruned(images))


@pytest.mark.parametrize("name", ["Dinov2ForImageClassification", "Dinov2WithRegistersModel"])
def test_positions_are_interpolated_for_what_the_processor_crops_to(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path)
    crop = {"crop_size": {"height": 42, "width": 42}, "size": {"shortest_edge": 48}, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(crop))
    found = load_backbone(str(tmp_path))
    assert found.family.image_shape == tuple(found.data_config["input_size"]) == (3, 42, 42)
    assert int(42 / found.data_config["crop_pct"]) == 48
    images = noise(3, 42, 42)
    torch.testing.assert_close(found.model(images), answer(name, model, images), atol=1e-5, rtol=1e-4)


def test_another_size_is_interpolated_as_transformers_does(tmp_path: Path) -> None:
    name = "ViTForImageClassification"
    model = make(name)
    model.save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path), img_size=48)
    images = noise(3, 48, 48)
    theirs = answer(name, model, images, interpolate_pos_encoding=True)
    torch.testing.assert_close(found.model(images), theirs, atol=1e-5, rtol=1e-4)


def test_defaults_are_those_of_transformers() -> None:
    """A configuration file leaves out what has its default."""
    for model_type, default in DEFAULTS.items():
        theirs = transformers.AutoConfig.for_model(model_type).to_dict()
        for key, value in default.items():
            if key in theirs:
                assert theirs[key] == value, (model_type, key)


def test_labels_and_their_order(tmp_path: Path) -> None:
    labels = dict(enumerate("cat dog eel fox gnu hen ibis jay kiwi lynx mole".split()))
    make("ViTForImageClassification", num_labels=11, id2label=labels).save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path))
    assert found.class_names == tuple(labels.values())
    make("ViTForImageClassification").save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).class_names == ()  # LABEL_0, ...: nobody's names


PROCESSORS: dict[str, tuple[str, dict[str, Any], tuple[str, float, str, float]]] = {
    "none": ("ViTModel", {}, ("bilinear", 32, "squash", 0.5)),
    "ViT's, old": ("ViTModel", {"size": 32, "image_mean": [0.1] * 3}, ("bilinear", 32, "squash", 0.1)),
    "DeiT's": (
        "DeiTModel",
        {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
        ("bicubic", 37, "squash", 0.485),
    ),
    "CLIP's": (
        "CLIPVisionModel",
        {"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 3, "do_normalize": False},
        ("bicubic", 32, "center", 0.0),
    ),
    "SigLIP's": ("SiglipVisionModel", {"size": {"height": 32, "width": 32}}, ("bicubic", 32, "squash", 0.5)),
}


@pytest.mark.parametrize(("name", "processor", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_preprocessing_is_the_image_processors(
    name: str, processor: dict[str, Any], expected: tuple[str, float, str, float], tmp_path: Path
) -> None:
    make(name).save_pretrained(tmp_path)
    if processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    config = load_backbone(str(tmp_path)).data_config
    resized = int(32 / config["crop_pct"])
    assert (config["interpolation"], resized, config["crop_mode"], config["mean"][0]) == expected


def test_a_folder_can_be_the_weights_of_a_model_of_timms(tmp_path: Path) -> None:
    options = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 192}
    make("ViTForImageClassification", **options, image_size=160, patch_size=16).save_pretrained(tmp_path)
    expected = load_backbone(str(tmp_path)).fingerprint
    assert load_backbone("test_vit", str(tmp_path)).fingerprint == expected
    assert load_backbone("test_vit", str(tmp_path / "model.safetensors")).fingerprint == expected
    assert timm.create_model("test_vit").blocks[0].norm1.eps == 1e-6
    assert load_backbone("test_vit", str(tmp_path)).model.blocks[0].norm1.eps == 1e-12
    with pytest.raises(WeightsError, match="must hold a model like test_vit3, got blocks 6, not 9; width 64, not 96"):
        load_backbone("test_vit3", str(tmp_path))


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"must be a folder with a model's config"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"weights must be a file or a folder for"),
    "broken configuration": (lambda folder: (folder / "config.json").write_text("{"), r"must be JSON, got a file"),
    "another kind": (
        lambda folder: change(folder / "config.json", architectures=["SwinModel"]),
        r"architectures must be one of ViTFor.*, got SwinModel",
    ),
    "another activation": (
        lambda folder: change(folder / "config.json", hidden_act="mish"),
        r"hidden_act must be one of gelu, .*, got 'mish'",
    ),
    "fewer blocks": (
        lambda folder: change(folder / "config.json", num_hidden_layers=2),
        r"does not fit the backbone in 12 places: unknown blocks\.2",
    ),
    "more classes": (
        lambda folder: change(folder / "config.json", id2label={str(place): "x" for place in range(7)}),
        r"in 2 places: head.bias is \(5,\), not \(7,\)",
    ),
    "another scale": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"rescale_factor": 1}'),
        r"must scale pixels by 1/255",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make("ViTForImageClassification").save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises((UnsupportedBackbone, WeightsError), match=message):
        load_backbone(str(tmp_path))


def test_a_bare_file_needs_its_configuration(tmp_path: Path) -> None:
    torch.save(make("ViTForImageClassification").state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"a model of Hugging Face's, whose config\.json must lie beside it"):
        load_backbone("test_vit", str(tmp_path / "w.pth"))
