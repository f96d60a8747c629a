"""Loading backbones: random, local and bundled weights, and what is refused."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from pruning.backbones import Backbone, fingerprint, load_backbone
from pruning.errors import UnsupportedBackbone, WeightsError
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage

SMALL = "test_vit3"  # 4 blocks of width 96 at 160 px, no class token, attention pool: timm's own test model


@pytest.fixture(scope="module")
def random() -> Backbone:
    return load_backbone(SMALL, "random")


def test_random_weights_are_the_same_every_time(random: Backbone) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = load_backbone(SMALL, "random")
    assert again.fingerprint == random.fingerprint
    assert torch.random.get_rng_state().equal(before)


def test_a_backbone_is_ready_to_evaluate(random: Backbone) -> None:
    assert not random.model.training
    assert not any(p.requires_grad for p in random.model.parameters())
    assert {p.dtype for p in random.model.parameters()} == {torch.float32}
    assert (random.name, random.weights, random.num_classes) == (SMALL, "random", 1000)
    assert tuple(random.data_config["input_size"]) == random.family.image_shape == (3, 160, 160)
    assert {"mean", "std", "interpolation", "crop_pct"} <= random.data_config.keys()


def test_the_demo_is_bundled() -> None:
    """The method's own size: 196 patch tokens and a class token, like DeiT at 224."""
    demo = load_backbone("demo", "whatever")
    assert (demo.weights, demo.num_classes) == ("bundled", 10)
    assert (demo.family.tokens, demo.family.prefix, demo.family.depth) == (196, 1, 12)
    assert demo.family.image_shape == tuple(demo.data_config["input_size"]) == (1, 28, 28)
    assert demo.fingerprint == load_backbone("demo").fingerprint


def test_a_fingerprint_is_of_names_and_values(random: Backbone) -> None:
    model = timm.create_model(SMALL)
    model.load_state_dict(random.model.state_dict())
    assert fingerprint(model) == random.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", random.fingerprint)
    model.norm.bias.data[0] += 1e-3
    assert fingerprint(model) != random.fingerprint


def averaged(state: dict[str, Any]) -> dict[str, Any]:
    """Another set of weights."""
    return {key: 2 * value for key, value in state.items()}


WRAPPINGS: dict[str, Any] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "module.": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "timm's script": lambda state: {
        "state_dict_ema": state,
        "state_dict": averaged(state),
        "args": argparse.Namespace(model=SMALL, lr=1e-3),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "metric": 71.3,
    },
    "DeiT's script": lambda state: {"model_ema": state, "model": averaged(state), "args": argparse.Namespace(epochs=3)},
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5.0",
    },
    "AveragedModel": lambda state: AveragedModel(holding(state)).state_dict(),
    "DINO": lambda state: {
        "teacher": {f"backbone.{key}": value for key, value in state.items()} | {"head.mlp.0.weight": torch.ones(3)},
        "student": {f"module.backbone.{key}": value for key, value in averaged(state).items()},
    },
    "pruned and fine-tuned": lambda state: prune(holding(state), Schedule([Stage(1, 0.5)])).state_dict(),
}


def holding(state: dict[str, Any]) -> torch.nn.Module:
    model = timm.create_model(SMALL)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_local_pth(random: Backbone, tmp_path: Path, wrap: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(wrap(random.model.state_dict()), path)
    assert load_backbone(SMALL, str(path)).fingerprint == random.fingerprint


TWO_SETS = {
    "timm's": ("state_dict_ema", "state_dict"),
    "DeiT's": ("model_ema", "model"),
}


@pytest.mark.parametrize(("ema", "raw"), TWO_SETS.values(), ids=TWO_SETS)
def test_of_several_sets_of_weights_the_averaged_are_taken_unless_another_is_named(
    random: Backbone, tmp_path: Path, ema: str, raw: str
) -> None:
    state, path = random.model.state_dict(), str(tmp_path / "model_best.pth.tar")
    torch.save({raw: averaged(state), ema: state}, path)
    found = load_backbone(SMALL, path)
    assert (found.fingerprint, found.weights_key) == (random.fingerprint, ema)
    other = load_backbone(SMALL, path, weights_key=raw)
    assert (other.fingerprint, other.weights_key) == (load_backbone(SMALL, path, weights_key="raw").fingerprint, raw)
    assert other.fingerprint != random.fingerprint
    expected = re.escape(f"backbone.weights_key must be a key of {path} that holds weights ({raw}, {ema}), got 'best'")
    with pytest.raises(WeightsError, match=expected):
        load_backbone(SMALL, path, weights_key="best")


def test_a_file_of_two_models_is_refused(random: Backbone, tmp_path: Path) -> None:
    state = random.model.state_dict()
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state.items()}
    torch.save(both, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"weights of one model, got 2, at 'student\.', 'teacher\.'"):
        load_backbone(SMALL, str(tmp_path / "w.ckpt"))


def test_local_safetensors_in_half_precision_are_read_as_float32(random: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    halved = {key: value.half() for key, value in random.model.state_dict().items()}
    save_file(halved, path)
    loaded = load_backbone(SMALL, str(path)).model.state_dict()
    assert all(loaded[key].equal(value.float()) for key, value in halved.items())


def test_a_classifier_for_other_classes_is_read_from_the_file(random: Backbone, tmp_path: Path) -> None:
    state = random.model.state_dict()
    state |= {"head.weight": torch.zeros(7, 96), "head.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "w.pth")
    assert load_backbone(SMALL, str(tmp_path / "w.pth")).num_classes == 7


def write(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)


BAD: dict[str, tuple[str, Any, str]] = {
    "a suffix nobody knows": (
        "w.npz",
        b"",
        "or a path to .safetensors, .pth, .pt, .bin, .ckpt, .tar or .index.json",
    ),
    "no file": ("w.pth", None, "no such file: "),
    "an empty pth": ("w.pth", b"", "cannot be read"),
    "a broken pth": ("w.pth", b"rubbish", "cannot be read: IndexError: list index out of range"),
    "a page of HTML": ("w.pth", b"<!DOCTYPE html>\n<html>Not Found</html>", "must hold tensors only, got"),
    "a cut zip": ("w.pth", b"PK\x03\x04" + bytes(90), "cannot be read"),
    "an empty safetensors": ("w.safetensors", b"", "cannot be read"),
    "a broken safetensors": ("w.safetensors", b"\xff" * 64, "cannot be read"),
    "code": ("w.pth", {"x": pickle.PickleBuffer}, "must hold tensors only, got"),
    "a tensor": ("w.pth", torch.ones(2), "must hold a state_dict, a mapping of names to tensors"),
    "numbers": ("w.pth", {"norm.bias": 1.0}, "must hold a state_dict, a mapping of names to tensors"),
    "another model": ("w.safetensors", {"a": torch.ones(2)}, "does not fit the backbone in "),
    "nothing": ("w.pth", {}, "does not fit the backbone in "),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_bad_weights_are_refused_by_path_and_reason(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(WeightsError) as caught:
        load_backbone(SMALL, str(path))
    text = str(caught.value)
    assert text.startswith("backbone.weights")
    assert str(path) in text
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "in 1 places: missing norm.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "in 1 places: unknown extra"),
        (lambda s: s.update({"norm.bias": torch.ones(3)}), r"in 1 places: norm.bias is (3,), not (96,)"),
    ],
)
def test_weights_that_nearly_fit_name_the_difference(
    random: Backbone, tmp_path: Path, change: Any, message: str
) -> None:
    state = dict(random.model.state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_backbone(SMALL, str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_smal_patch16_224", "must be a timm model or demo, got 'deit_smal_patch16_224'; did you mean deit_small"),
        ("demoo", "must be a timm model or demo, got 'demoo'; did you mean demo?"),
        ("", "must be a timm model or demo, got ''; none is spelt like it"),
        ("test_vit3.nope", "test_vit3 alone or with a tag of its own, got tag 'nope'; its tags: r160_in1k"),
        ("test_vit3.", "test_vit3 alone or with a tag of its own, got tag ''"),
        ("resnet18", "backbone of type ResNet cannot be pruned"),
    ],
)
def test_unknown_and_unprunable_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=re.escape(message)):
        load_backbone(name, "random")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("hub unreachable\nat https://x"), "could not be downloaded: hub unreachable; give a path"),
        (RuntimeError(""), "could not be downloaded: RuntimeError; give a path"),
    ],
)
def test_a_hub_that_does_not_answer_is_a_weights_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(name: str, pretrained: bool) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_backbone(SMALL)


def test_what_is_not_driven_exactly_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check of PrunedViT against the untouched model runs on every load."""
    model = timm.create_model(SMALL)
    model.norm.weight.data.fill_(torch.nan)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UnsupportedBackbone, match=r"must be reproduced within 0\.0001"):
        load_backbone(SMALL, str(tmp_path / "w.pth"))
