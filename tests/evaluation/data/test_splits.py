"""The two splits of a study: disjoint, drawn by the seed, refused when they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.backbones import Backbone
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation.data.sources import DemoImages
from search.evaluation.data.splits import Images, Split, open_all, open_images

Maker = Callable[..., StudySpec]


def opened(spec: StudySpec, backbone: Backbone) -> Images:
    return open_images(spec.data, spec.objectives, backbone)


class TestDemo:
    def test_splits_are_disjoint_and_of_the_sizes_asked_for(self, small_spec: Maker, backbone: Backbone) -> None:
        images = opened(small_spec(data={"search_images": 2000, "confirm_images": 8000}), backbone)
        search, confirm = set(images.search_indices.tolist()), set(images.confirm_indices.tolist())
        assert (len(search), len(confirm)) == (2000, 8000)
        assert not search & confirm

    def test_are_drawn_by_the_seed(self, small_spec: Maker, backbone: Backbone) -> None:
        one, same, other = (opened(small_spec(data={"seed": seed}), backbone) for seed in (1, 1, 2))
        assert one.search_indices.tolist() == same.search_indices.tolist()
        assert one.fingerprint == same.fingerprint
        assert one.search_indices.tolist() != other.search_indices.tolist()
        assert one.fingerprint != other.fingerprint

    def test_fingerprint_tells_the_splits_apart(self, small_spec: Maker, backbone: Backbone) -> None:
        one = opened(small_spec(), backbone)
        other = opened(small_spec(data={"search_images": 12, "confirm_images": 6}), backbone)
        assert one.fingerprint != other.fingerprint

    def test_hold_the_normalised_images_of_their_indices(
        self, small_spec: Maker, backbone: Backbone, demo_images: DemoImages
    ) -> None:
        images = opened(small_spec(), backbone)
        split = images.search()
        for place, index in enumerate(images.search_indices):
            expected = (demo_images.images[index].astype(np.float32) / 255 - 0.2860) / 0.3530
            assert np.allclose(split.batch(place, place + 1)[0].numpy(), expected, atol=1e-6)
            assert split.labels is not None
            assert split.labels[place] == demo_images.labels[index]

    def test_every_image_at_once(self, small_spec: Maker, backbone: Backbone) -> None:
        spec = small_spec()
        images = open_all(spec.data, spec.objectives, backbone)
        assert images.search_indices.tolist() == list(range(10_000))
        assert not len(images.confirm_indices)

    def test_another_backbones_shape_is_refused(self, small_spec: Maker, backbone: Backbone) -> None:
        spec = small_spec()
        other = replace(backbone, name="tall", family=replace(backbone.family, image_shape=(3, 56, 28)))
        with pytest.raises(InputError, match=r"data\.source: .* got backbone tall for 3x56x28; give data\.path"):
            opened(spec, other)


@pytest.mark.parametrize("size", [1, 4, 13, 50])
def test_batches_are_the_images_in_order(split: Split, size: int) -> None:
    batches = [split.batch(start, min(start + size, len(split))) for start in range(0, len(split), size)]
    assert torch.equal(torch.cat(batches), split.batch(0, len(split)))


class TestFolder:
    @pytest.mark.parametrize(("search", "confirm"), [(20, 11), (31, 1)])
    def test_too_small_is_refused(
        self, folder: Path, small_spec: Maker, backbone: Backbone, search: int, confirm: int
    ) -> None:
        spec = small_spec(data={"path": str(folder), "search_images": search, "confirm_images": confirm})
        with pytest.raises(InputError, match=rf"at most the 30 images of .*, got {search} \+ {confirm}; lower one"):
            opened(spec, backbone)

    def test_default_sizes_halve_a_small_folder(self, folder: Path, small_spec: Maker, backbone: Backbone) -> None:
        spec = small_spec(data={"path": str(folder), "search_images": 5000, "confirm_images": 45_000})
        images = opened(spec, backbone)
        assert sorted([*images.search_indices, *images.confirm_indices]) == list(range(30))
        assert len(images.search_indices) == 15

    def test_labels_that_do_not_fit_are_refused_for_top1_only(
        self, folder: Path, small_spec: Maker, backbone: Backbone
    ) -> None:
        Image.new("L", (28, 28)).save(folder / "x.png")
        (folder / "eleventh").mkdir()
        Image.new("L", (28, 28)).save(folder / "eleventh" / "x.png")
        data = {"path": str(folder)}
        with pytest.raises(
            InputError, match=r"of the backbone \(10\) for objectives.accuracy top1, got 11 .*agreement"
        ):
            opened(small_spec(data=data), backbone)
        assert opened(small_spec(data=data, objectives={"accuracy": "agreement"}), backbone).search().labels is None


class TestCorruptImages:
    def spoil(self, images: Images, place: int) -> str:
        path = images.source.name(images.search_indices[place])
        Path(path).write_bytes(Path(path).read_bytes()[:60])
        return path

    def test_is_named(self, folder: Path, small_spec: Maker, backbone: Backbone) -> None:
        images = opened(small_spec(data={"path": str(folder)}), backbone)
        path = self.spoil(images, 3)
        with pytest.raises(InputError, match=rf"data\.path: image {path} cannot be decoded"):
            images.search()

    def test_is_skipped_only_on_request(self, folder: Path, small_spec: Maker, backbone: Backbone) -> None:
        images = opened(small_spec(data={"path": str(folder), "skip_corrupt": True}), backbone)
        whole = images.search()
        path = self.spoil(images, 3)
        rest = opened(small_spec(data={"path": str(folder), "skip_corrupt": True}), backbone).search()
        assert rest.skipped == (path,)
        assert whole.labels is not None
        assert rest.labels is not None
        assert rest.labels.tolist() == np.delete(whole.labels, 3).tolist()
        assert torch.equal(rest.batch(0, len(rest)), torch.cat([whole.batch(0, 3), whole.batch(4, len(whole))]))

    def test_nothing_left_is_refused(self, folder: Path, small_spec: Maker, backbone: Backbone) -> None:
        images = opened(small_spec(data={"path": str(folder), "skip_corrupt": True}), backbone)
        first, *_ = [self.spoil(images, place) for place in range(13)]
        with pytest.raises(InputError, match=rf"no image of the search split can be decoded; first: {first}"):
            images.search()
