"""The sheets of surviving patches that the dashboard shows with each trial of a front."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from optuna_dashboard.artifact._backend import get_trial_artifact_meta, list_trial_artifacts
from PIL import Image

from pruning.backbones import load_backbone
from search.reporting.plots import patches_plot
from search.server.dashboard import trial_annotations
from search.server.dashboard.plots import FrontPictures, patches_id
from search.server.dashboard.readonly_storage import FrontReader
from search.storage.store import Store


@pytest.fixture
def reader(store: Store) -> FrontReader:
    return FrontReader(store)


def test_every_trial_of_the_front_that_drops_patches_has_a_sheet(reader: FrontReader, store: Store) -> None:
    attributes = reader.get_study_system_attrs(1)
    listed = {
        trial.number: [meta["artifact_id"] for meta in list_trial_artifacts(attributes, {}, trial)]
        for trial in reader.get_all_trials(1)
    }
    study = store.study("shirts")
    with_sheet = {number: ids for number, ids in listed.items() if ids}
    assert with_sheet == {number: [patches_id(study, number)] for number in (2, 3, 5, 7)}  # trial 0 is the dense model


def test_the_dashboard_finds_what_it_is_to_serve(reader: FrontReader, store: Store) -> None:
    name = patches_id(store.study("shirts"), 3)
    trial_id = reader.get_trial_id_from_study_id_trial_number(1, 3)
    found = get_trial_artifact_meta(reader, 1, trial_id, name)
    (described,) = trial_annotations.artifact(name, trial_id).values()
    assert found == json.loads(described)
    assert found["mimetype"] == "image/png"


def test_where_the_weights_are_not_those_of_the_study_the_picture_says_so(store: Store) -> None:
    """The fixture's study has a fingerprint of its own."""
    shown = FrontPictures(store).open_reader(patches_id(store.study("shirts"), 3)).read()
    assert Image.open(io.BytesIO(shown)).size[0] == 760
    assert (np.asarray(Image.open(io.BytesIO(shown))) == patches_plot.QUIET).all(axis=2).sum() > 50


def test_the_sheet_is_drawn_once_from_the_real_model(store: Store) -> None:
    store.set_provenance(1, {"fingerprint": load_backbone("demo").fingerprint})
    pictures = FrontPictures(store)
    name = patches_id(store.study("shirts"), 5)
    first = pictures.open_reader(name).read()
    assert Image.open(io.BytesIO(first)).size == (
        2 * patches_plot.MARGIN + 4 * 224 + 3 * patches_plot.GAP,
        2 * patches_plot.MARGIN + 2 * patches_plot.HEAD + 4 * (224 + patches_plot.FOOT),
    )
    assert pictures.open_reader(name).read() == first
    known = pictures._sheet.cache_info()
    assert (known.misses, known.hits) == (1, 1)


@pytest.mark.parametrize("name", ["00000063-00000001", "00000001-00000063"])
def test_what_is_not_there_is_not_drawn(store: Store, name: str) -> None:
    with pytest.raises(KeyError):
        FrontPictures(store).open_reader(name)
