"""Images from folders and from the package: what is listed, labelled, decoded and refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from pruning.backbones import Backbone
from search.errors import InputError
from search.evaluation.data.pixels import CorruptImageError
from search.evaluation.data.sources import Collection, DemoImages
from search.evaluation.data.splits import Images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_demo_is_the_10000_test_images(demo_images: DemoImages) -> None:
    assert len(demo_images) == 10_000
    assert demo_images.pixels(0).shape == (1, 28, 28)
    # Fashion-MNIST's test set has exactly 1,000 images of each class; its first is an ankle boot (9)
    assert np.bincount(demo_images.labels).tolist() == [1000] * 10
    assert demo_images.labels[0] == 9


def test_folder_has_the_pixels_and_labels_of_what_was_written(
    folder: Path, backbone: Backbone, demo_images: DemoImages
) -> None:
    source = collection(folder, backbone)
    assert len(source) == 30
    assert source.labels is not None
    for index in range(len(source)):
        original = int(Path(source.name(index)).stem)
        assert (source.pixels(index) == demo_images.pixels(original)).all()
        assert source.labels[index] == demo_images.labels[original]


def collection(path: Path, backbone: Backbone) -> Collection:
    return Collection(str(path), backbone)


def big_backbone(backbone: Backbone, **config: Any) -> Backbone:
    """The demo backbone's record with another preprocessing: sources read no more of a backbone."""
    base: Mapping[str, Any] = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    }
    return replace(backbone, data_config={**base, **config})


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(50, 41), (20, 64)])
def test_preprocessing_is_timms_own(
    tmp_path: Path, backbone: Backbone, crop_pct: float, interpolation: str, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "noise.png"
    Image.fromarray(noise).save(path)
    big = big_backbone(backbone, crop_pct=crop_pct, interpolation=interpolation)
    source = collection(tmp_path, big)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    images = Images(source, np.arange(1), np.arange(0), False, mean, std)
    # what a user of timm writes, normalisation included
    expected = create_transform(**resolve_data_config(dict(big.data_config)))(Image.open(path).convert("RGB"))
    assert torch.allclose(images.search().batch(0, 1)[0], expected, atol=1e-6)


def test_preprocessing_of_a_real_model_is_timms_own(tmp_path: Path, backbone: Backbone) -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    config = timm.data.resolve_model_data_config(model)
    (tmp_path / "a").mkdir()
    gradient = np.linspace(0, 255, 300 * 260 * 3).reshape(260, 300, 3).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "a" / "x.png")
    source = collection(tmp_path, replace(backbone, data_config=config))
    expected = create_transform(**config)(Image.fromarray(gradient))
    mean, std = (torch.tensor(config[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((torch.from_numpy(source.pixels(0)) / 255 - mean) / std, expected, atol=1e-6)


def test_grey_of_16_bits_keeps_its_range(tmp_path: Path, backbone: Backbone) -> None:
    """Pillow by itself cuts at 255, which makes such images white."""
    (tmp_path / "a").mkdir()
    ramp = np.linspace(0, 65535, 28 * 28).reshape(28, 28)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a" / "deep.png")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(tmp_path / "a" / "shallow.png")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "a" / "unknown.tiff")
    source = collection(tmp_path, backbone)
    found = {Path(source.name(i)).stem: i for i in range(3)}
    deep, shallow = (source.pixels(found[name]).astype(int) for name in ("deep", "shallow"))
    assert np.abs(deep - shallow).max() <= 1
    with pytest.raises(CorruptImageError, match=r"unknown.tiff cannot be decoded: its pixels are float"):
        source.pixels(found["unknown"])


class TestLabels:
    def make(self, root: Path, names: list[str]) -> Path:
        for name in names:
            (root / name).mkdir()
            Image.new("L", (28, 28)).save(root / name / "x.png")
        return root

    def test_a_subset_of_synsets_means_imagenets_classes(self, tmp_path: Path, backbone: Backbone) -> None:
        # the 1st, 2nd and last of ImageNet's 1,000 synsets in sorted order
        root = self.make(tmp_path, ["n15075141", "n01440764", "n01443537"])
        source = collection(root, replace(backbone, num_classes=1000))
        assert source.labels is not None
        assert source.labels.tolist() == [0, 1, 999]

    def test_other_folders_are_the_classes_in_sorted_order(self, tmp_path: Path, backbone: Backbone) -> None:
        root = self.make(tmp_path, ["cat", "ant", "bee"])
        source = collection(root, replace(backbone, num_classes=3))
        assert source.labels is not None
        assert [(Path(source.name(i)).parent.name, int(source.labels[i])) for i in range(3)] == [
            ("ant", 0),
            ("bee", 1),
            ("cat", 2),
        ]

    def test_other_numbers_of_folders_are_no_labels(self, tmp_path: Path, backbone: Backbone) -> None:
        assert collection(self.make(tmp_path, ["ant", "bee"]), backbone).labels is None

    def test_without_folders_there_are_none(self, tmp_path: Path, backbone: Backbone) -> None:
        Image.new("L", (28, 28)).save(tmp_path / "x.png")
        source = collection(tmp_path, backbone)
        assert (len(source), source.labels) == (1, None)

    def test_numbers_are_indices_and_do_not_sort_as_text(self, tmp_path: Path, backbone: Backbone) -> None:
        names = [str(number) for number in range(12)]
        source = collection(self.make(tmp_path, names), replace(backbone, num_classes=12))
        assert source.labels is not None
        found = {int(Path(source.name(i)).parent.name): int(source.labels[i]) for i in range(12)}
        assert found == {number: number for number in range(12)}

    def test_links_to_folders_are_followed_but_not_in_circles(self, tmp_path: Path, backbone: Backbone) -> None:
        root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
        (root / "ant").mkdir(parents=True)
        (elsewhere / "deep").mkdir(parents=True)
        for folder in (root / "ant", elsewhere, elsewhere / "deep"):
            Image.new("L", (28, 28)).save(folder / "x.png")
        (root / "ant" / "more").symlink_to(elsewhere)
        (root / "bee").symlink_to(elsewhere)
        (elsewhere / "deep" / "up").symlink_to(elsewhere)
        (elsewhere / "deep" / "back").symlink_to(root)
        source = collection(root, replace(backbone, num_classes=2))
        names = [str(Path(source.name(i)).relative_to(root)) for i in range(len(source))]
        inside = ["more/deep/x.png", "more/x.png", "x.png"]
        assert names[:3] == [f"ant/{name}" for name in inside]
        assert "bee/x.png" in names
        assert "bee/deep/x.png" in names

    def test_hidden_folders_and_other_files_are_not_images(self, tmp_path: Path, backbone: Backbone) -> None:
        self.make(tmp_path, ["ant", ".cache"])
        (tmp_path / "ant" / "notes.txt").write_text("x")
        assert len(collection(tmp_path, backbone)) == 1


class TestFingerprint:
    def test_is_that_of_a_copy(self, folder: Path, backbone: Backbone, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "copy")
        assert collection(tmp_path / "copy", backbone).fingerprint == collection(folder, backbone).fingerprint

    def test_changes_with_the_images(self, folder: Path, backbone: Backbone) -> None:
        before = collection(folder, backbone).fingerprint
        next(folder.rglob("*.png")).unlink()
        assert collection(folder, backbone).fingerprint != before

    def test_changes_with_the_preprocessing(self, folder: Path, backbone: Backbone) -> None:
        other = replace(backbone, data_config={**backbone.data_config, "crop_pct": 0.9})
        assert collection(folder, other).fingerprint != collection(folder, backbone).fingerprint


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda raw: b"no image at all", "cannot identify image file"),
        (lambda raw: raw[: len(raw) // 2], ""),  # Pillow's words differ between its releases
        (lambda raw: b"", "cannot identify image file"),
    ],
    ids=["text", "truncated", "empty"],
)
def test_corrupt_image_is_named(folder: Path, backbone: Backbone, spoil: Any, reason: str) -> None:
    path = sorted(folder.rglob("*.png"))[4]
    path.write_bytes(spoil(path.read_bytes()))
    source = collection(folder, backbone)
    with pytest.raises(InputError, match=rf"data\.path: image {path} cannot be decoded: .*{reason}.*skip_corrupt"):
        source.pixels(4)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow warns of odd metadata
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp", "tif"])
def test_any_damaged_byte_is_an_input_error_or_an_image(
    tmp_path: Path, backbone: Backbone, demo_images: DemoImages, kind: str
) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / f"x.{kind}"
    Image.fromarray(demo_images.pixels(0)[0]).save(path)
    whole = path.read_bytes()
    source = collection(tmp_path, backbone)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            spoilt[place] = random.integers(0, 256)
        path.write_bytes(spoilt)
        try:
            assert source.pixels(0).shape == (1, 28, 28)
        except InputError:
            refused += 1
    assert refused


class TestFolders:
    def test_missing(self, tmp_path: Path, backbone: Backbone) -> None:
        with pytest.raises(InputError, match=r"data\.path must be an existing folder or file, got .*nowhere.; check"):
            collection(tmp_path / "nowhere", backbone)

    def test_a_file(self, tmp_path: Path, backbone: Backbone) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match=r"data\.path must be a folder of images, tar shards .*got the file .*"):
            collection(tmp_path / "file", backbone)

    @pytest.mark.parametrize("inside", [None, "ant"])
    def test_without_images(self, tmp_path: Path, backbone: Backbone, inside: str | None) -> None:
        if inside:
            (tmp_path / inside).mkdir()
        with pytest.raises(InputError, match=rf"data\.path must hold images .* got none in {tmp_path}"):
            collection(tmp_path, backbone)

    def test_unreadable(self, folder: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)  # chmod does not stop a test that root runs
        with pytest.raises(InputError, match=rf"{folder} cannot be read: Permission denied; check its permissions"):
            collection(folder, backbone)
