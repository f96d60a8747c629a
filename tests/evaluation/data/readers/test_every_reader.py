"""The invariants that hold for every form of collection, on the same pictures in each form."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from search.config.data_paths import expand
from search.errors import InputError
from search.evaluation.data.pixels import CorruptImageError
from search.evaluation.data.readers import READERS, find_form
from search.evaluation.data.sources import Collection
from search.evaluation.data.splits import open_images

Write = Callable[[Any], Path]
WITH_LABELS: dict[str, Write] = {
    "class folders": lambda pictures: pictures.class_folders(),
    "csv": lambda pictures: pictures.rows(),
    "tsv": lambda pictures: pictures.rows(".tsv"),
    "text": lambda pictures: pictures.lines(),
    "parquet of paths": lambda pictures: pictures.parquet_rows(),
    "hugging face file": lambda pictures: pictures.hugging_face(),
    "hugging face folder": lambda pictures: pictures.hugging_face(shards=2),
    "hugging face pattern": lambda pictures: (
        pictures.hugging_face(shards=2) / "data/validation-{00000..00001}-of-00002.parquet"
    ),
    "idx file": lambda pictures: pictures.idx(),
    "idx gzip": lambda pictures: pictures.idx(".gz"),
    "idx folder": lambda pictures: pictures.idx().parent,
    "tar folder": lambda pictures: pictures.tar(),
    "tar json": lambda pictures: pictures.tar(label="json"),
    "tar file": lambda pictures: pictures.tar(shards=1) / "shard-000.tar",
    "tar pattern": lambda pictures: pictures.tar() / "shard-{000..001}.tar",
}
WITHOUT_LABELS: dict[str, Write] = {
    "flat folder": lambda pictures: pictures.flat_folder(),
    "tar": lambda pictures: pictures.tar(label=""),
    "csv": lambda pictures: pictures.rows(header=("path", "taken")),
    "text": lambda pictures: pictures.lines(labelled=False),
}


ENCODED = [name for name in WITH_LABELS if "idx" not in name]  # what holds files of pictures, which may be broken


@pytest.fixture(params=WITH_LABELS)
def write(request: pytest.FixtureRequest) -> Write:
    return WITH_LABELS[request.param]


@pytest.fixture
def path(write: Write, pictures: Any) -> Path:
    return write(pictures)


def test_every_form_is_here(pictures: Any) -> None:
    assert {find_form(expand(str(write(pictures)))[0]) for write in WITH_LABELS.values()} == set(READERS)


def test_holds_the_pictures_and_their_labels(path: Path, pictures: Any, backbone: Backbone) -> None:
    source = Collection(str(path), backbone)
    assert len(source) == 20
    assert source.labels is not None
    found = {source.pixels(i)[0].tobytes(): int(label) for i, label in enumerate(source.labels)}
    assert found == {p.tobytes(): label for p, label in zip(pictures.pixels, pictures.labels, strict=True)}
    assert len({source.name(i) for i in range(20)}) == 20


def test_opens_in_any_order_and_in_another_process(path: Path, backbone: Backbone) -> None:
    source = Collection(str(path), backbone)
    straight = [source.pixels(i) for i in range(20)]
    travelled = pickle.dumps(source)
    assert len(travelled) < 11_000  # the pixels alone are 15,680 bytes: they stay behind
    elsewhere = pickle.loads(travelled)
    for i in np.random.default_rng(0).permutation(20):
        assert (elsewhere.pixels(int(i)) == straight[i]).all()


def test_a_copy_elsewhere_is_the_same_images(path: Path, pictures: Any, backbone: Backbone, tmp_path: Path) -> None:
    before = Collection(str(path), backbone)
    moved = tmp_path.with_name("moved")
    shutil.copytree(tmp_path, moved)
    after = Collection(str(path).replace(str(tmp_path), str(moved)), backbone)
    assert after.fingerprint == before.fingerprint
    assert after.cache_key != before.cache_key
    shutil.rmtree(moved)


def test_changed_files_are_decoded_anew(path: Path, pictures: Any, backbone: Backbone) -> None:
    before = Collection(str(path), backbone).cache_key
    for file in pictures.folder.rglob("*"):
        os.utime(file, (1, 1))
    assert Collection(str(path), backbone).cache_key != before


def test_other_labels_are_other_images(write: Write, pictures: Any, backbone: Backbone) -> None:
    before = Collection(str(write(pictures)), backbone)
    shutil.rmtree(pictures.folder)
    pictures.folder.mkdir()
    pictures.labels[:2] = pictures.labels[1::-1]
    assert Collection(str(write(pictures)), backbone).fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ENCODED)
def test_a_corrupt_image_is_named_or_skipped(name: str, pictures: Any, small_spec: Any, backbone: Backbone) -> None:
    pictures.broken = 7
    data = {"path": str(WITH_LABELS[name](pictures)), "search_images": 12, "confirm_images": 8}
    spec = small_spec(data=data)
    images = open_images(spec.data, spec.objectives, backbone)
    with pytest.raises(CorruptImageError, match=r"data\.path: image .* cannot be decoded: .*skip_corrupt: true"):
        _ = images.search(), images.confirm()
    spec = small_spec(data={**data, "skip_corrupt": True})
    images = open_images(spec.data, spec.objectives, backbone)
    splits = [images.search(), images.confirm()]
    assert sorted(map(len, splits)) in ([7, 12], [8, 11])
    assert sum(len(split.skipped) for split in splits) == 1
    known = {picture.tobytes(): label for picture, label in zip(pictures.pixels, pictures.labels, strict=True)}
    for split in splits:
        assert split.labels is not None
        for place in range(len(split)):
            grey = 255 * (split.batch(place, place + 1) * split.std + split.mean)
            assert known[grey.round().to(torch.uint8).numpy().tobytes()] == split.labels[place]


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_without_labels_only_agreement_is_to_be_had(
    name: str, pictures: Any, small_spec: Any, backbone: Backbone
) -> None:
    data = {"path": str(WITHOUT_LABELS[name](pictures)), "search_images": 12, "confirm_images": 8}
    spec = small_spec(data=data)
    with pytest.raises(InputError, match=r"data\.path must have labels .* top1, got no labels: .*accuracy: agreement"):
        open_images(spec.data, spec.objectives, backbone)
    spec = small_spec(data=data, objectives={"accuracy": "agreement"})
    images = open_images(spec.data, spec.objectives, backbone)
    assert images.search().labels is None
    assert images.classes == "none"
