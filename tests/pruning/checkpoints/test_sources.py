"""Names, folders and the hub: what each stands for, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import save_for_hf

from pruning.backbones import fingerprint, load_backbone, sketch_backbone
from pruning.checkpoints import hub, hugging_face, torchvision_models
from pruning.checkpoints.names import PREFIXES, folder_of, hub_id_of
from pruning.checkpoints.sources import SOURCES
from pruning.errors import UnsupportedBackbone, WeightsError

SMALL = "test_vit"


@pytest.mark.parametrize(
    ("name", "folder", "hub_id"),
    [
        ("deit_tiny_patch16_224.fb_in1k", None, None),
        ("timm/vit_tiny_patch16_224.augreg_in21k", None, None),
        ("torchvision/vit_b_16", None, None),
        ("openclip/ViT-B-32", None, None),
        ("hf_hub:google/vit-base-patch16-224", None, "google/vit-base-patch16-224"),
        ("hf-hub:google/vit-base-patch16-224@v1", None, "google/vit-base-patch16-224@v1"),
        ("local-dir:model", "model", None),
        ("models/vit", "models/vit", None),
        ("/data/vit", "/data/vit", None),
        ("./vit", "./vit", None),
        (r"C:\vit", r"C:\vit", None),
    ],
)
def test_what_a_name_stands_for(name: str, folder: str | None, hub_id: str | None) -> None:
    assert (folder_of(name), hub_id_of(name)) == (folder, hub_id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As timm saves a fine-tuned model for the hub."""
    model = timm.create_model(SMALL, num_classes=3, img_size=96)
    config = {"label_names": ["cat", "dog", "eel"], "mean": (0.1, 0.2, 0.3), "input_size": (3, 96, 96)}
    args = {"img_size": 96}
    save_for_hf(model, tmp_path / "saved", model_config=config, model_args=args, safe_serialization="both")
    return tmp_path / "saved"


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_of_timms(folder: Path, prefix: str) -> None:
    found = load_backbone(f"{prefix}{folder}")
    assert (found.num_classes, found.class_names) == (3, ("cat", "dog", "eel"))
    assert found.family.image_shape == tuple(found.data_config["input_size"]) == (3, 96, 96)
    saved = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert fingerprint(saved) == found.fingerprint


def test_timms_own_prefix_is_the_name_without_it() -> None:
    assert load_backbone(f"timm/{SMALL}", "random").fingerprint == load_backbone(SMALL, "random").fingerprint
    with pytest.raises(UnsupportedBackbone, match=r"must be a timm model or demo, got 'timm/vit_smal'"):
        load_backbone("timm/vit_smal")


def test_the_hub_is_read_like_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is asked for, and in which revision; the download itself is huggingface_hub's."""
    asked: list[tuple[str, str, str | None]] = []
    copy = tmp_path / "cache"
    copy.mkdir()

    def download(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        if not (folder / name).is_file():
            raise EntryNotFoundError(name)
        return str(shutil.copy(folder / name, copy))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert sketch_backbone("hf_hub:someone/vit@v2").class_names == ("cat", "dog", "eel")
    assert not any("model" in name for _, name, _ in asked)  # no weights for what needs none
    found = load_backbone("hf_hub:someone/vit@v2")
    assert found.fingerprint == load_backbone(str(folder)).fingerprint
    assert {(repository, revision) for repository, _, revision in asked} == {("someone/vit", "v2")}
    assert [name for _, name, _ in asked][-1] == "model.safetensors"  # and no second file of weights
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"hf_hub:someone/vit must hold weights \(model\.safetensors"):
        load_backbone("hf_hub:someone/vit")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"hf_hub:someone/vit must hold a configuration \(config\.json or open_clip"):
        load_backbone("hf_hub:someone/vit")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            LocalEntryNotFoundError("no connection\nand no copy"),
            r"could not be downloaded: no connection; give the path",
        ),
        (OSError("disk full"), r"could not be downloaded: disk full; give the path"),
    ],
)
def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def download(*given: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=message):
        load_backbone("hf_hub:someone/vit")


def test_an_id_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(WeightsError, match=r"hf_hub:a/b/c could not be downloaded: .*a/b/c"):
        load_backbone("hf_hub:a/b/c")


def test_names_have_the_prefixes_of_their_sources() -> None:
    assert {f"{name}/" for name, source in SOURCES.items() if source.by_name is not None} == set(PREFIXES)


def test_a_folder_without_a_slash_is_told_from_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UnsupportedBackbone, match=r"must be a timm model or demo, got 'saved'; write \./saved for the"):
        load_backbone("saved")
    assert load_backbone("./saved").num_classes == 3


def test_no_folder_and_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match=r"backbone\.name must be an existing folder, got '/nowhere/vit'"):
        load_backbone("/nowhere/vit")
    with pytest.raises(UnsupportedBackbone, match="check the path, or write hf_hub:google/vit-base for the hub's"):
        load_backbone("google/vit-base")
    with pytest.raises(UnsupportedBackbone, match=r"backbone\.name must be a folder with a model's configuration"):
        sketch_backbone(str(tmp_path))
    torch.save({}, tmp_path / "model.pth")
    with pytest.raises(UnsupportedBackbone, match=r"backbone\.weights must be a folder with a model's configuration"):
        load_backbone(SMALL, str(tmp_path))
    (tmp_path / "config.json").write_text('{"architecture": "vit_x"}')
    with pytest.raises(UnsupportedBackbone, match=r"architecture must be a timm model, got 'vit_x'"):
        load_backbone(str(tmp_path))


def test_of_two_configurations_the_one_with_weights_is_taken(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 8, "vision_cfg": {}}}')
    assert load_backbone(str(folder)).class_names == ("cat", "dog", "eel")


def test_the_manual_lists_what_is_read() -> None:
    """And each of these has its row in the tests of its source."""
    page = (Path(__file__).parents[3] / "docs" / "data-and-weights.md").read_text()
    section = page.partition("### Other libraries")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([A-Za-z0-9_]+)`", "".join(line for line in section.splitlines() if line[:1] == "|")))
    assert named >= hugging_face.KINDS.keys() | torchvision_models.MODELS.keys()
    classes = {name for name in named if name[:1].isupper() and name not in ("FOLDER",)}
    assert classes == hugging_face.KINDS.keys()
    assert {name for name in named if name.startswith("vit_")} == torchvision_models.MODELS.keys()
