"""Weights in several files beside an index, as `transformers` and `huggingface_hub` split them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from pruning.backbones import fingerprint, load_backbone
from pruning.checkpoints import hub
from pruning.errors import WeightsError

transformers = pytest.importorskip("transformers")

INDEX = "model.safetensors.index.json"
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**CONFIG)).eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    return tmp_path


@torch.inference_mode()
def test_shards_give_what_one_file_gives(model: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tmp_path_factory.mktemp("whole")
    model.save_pretrained(whole)
    found, images = load_backbone(str(folder)), torch.randn(2, 3, 32, 32)
    assert found.fingerprint == load_backbone(str(whole)).fingerprint
    torch.testing.assert_close(found.model(images), model(images).logits, atol=1e-5, rtol=1e-4)
    assert load_backbone(str(whole), str(folder / INDEX)).fingerprint == found.fingerprint


def test_shards_of_torch(model: Any, folder: Path) -> None:
    expected = load_backbone(str(folder)).fingerprint
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    save_torch_state_dict(model.state_dict(), folder, max_shard_size="20KB", safe_serialization=False)
    assert (folder / "pytorch_model.bin.index.json").is_file()
    assert load_backbone(str(folder)).fingerprint == expected


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "torch"])
def test_a_folder_of_timms(safe: bool, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=3)
    save_for_hf(model, tmp_path, model_config={"label_names": ["cat", "dog", "eel"]})
    (tmp_path / "pytorch_model.bin").unlink()
    save_torch_state_dict(model.state_dict(), tmp_path, max_shard_size="300KB", safe_serialization=safe)
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    found = load_backbone(str(tmp_path))
    assert (found.fingerprint, found.class_names) == (fingerprint(model), ("cat", "dog", "eel"))


def test_shards_are_downloaded_with_their_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")

    def download(repository: str, name: str, revision: str | None) -> str:
        if not (folder / name).is_file():
            raise hub.EntryNotFoundError(name)
        (cache / name).write_bytes((folder / name).read_bytes())
        return str(cache / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert load_backbone("hf_hub:someone/vit").fingerprint == load_backbone(str(folder)).fingerprint


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def set_map(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def drop_tensor(folder: Path) -> None:
    state = load_file(first_shard(folder))
    del state[min(state)]
    save_file(state, first_shard(folder))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda folder: first_shard(folder).unlink(),
        r"index\.json needs \d+ files, of which 1 are missing: model-00001-of-\d+\.safetensors; copy them beside it",
    ),
    "lacking": (drop_tensor, r"model-00001-of-\S+ must hold what model\.safetensors\.index\.json places there"),
    "broken": (lambda folder: first_shard(folder).write_bytes(b"no"), r"model-00001-of-\S+ cannot be read"),
    "no map": (lambda folder: (folder / INDEX).write_text("{}"), r"must have a weight_map of tensors to files"),
    "empty map": (lambda folder: set_map(folder, {}), r"must have a weight_map of tensors to files"),
    "numbers": (lambda folder: set_map(folder, {"a": 1}), r"must have a weight_map of tensors to files"),
    "elsewhere": (
        lambda folder: set_map(folder, {"a": "../w.safetensors"}),
        r"must name files beside it, got '\.\./w\.safetensors'",
    ),
    "itself": (lambda folder: set_map(folder, {"a": INDEX}), r"must name files beside it, got 'model\.safetensors"),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), r"must be JSON, got a file that cannot be read"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_shards_that_do_not_serve_are_refused(spoil: Callable[[Path], Any], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(WeightsError, match=message):
        load_backbone(str(folder))


def test_an_index_that_is_not_there(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*other\.index\.json"):
        load_backbone(str(folder), str(folder / "other.index.json"))
