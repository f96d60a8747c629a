"""A checkpoint with raw and averaged weights: which of them a study runs, records, and keeps to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from pruning.backbones import fingerprint
from search.config.spec import StudySpec, make_spec
from search.errors import SearchError
from search.evaluation.calibration import Calibration
from search.evaluation.schedule_evaluator import ScheduleEvaluator

SMALL = "test_vit3"


def test_a_study_keeps_to_the_weights_that_it_began_with(
    folder: Path, tmp_path: Path, facts_of: Callable[..., Calibration]
) -> None:
    raw, averaged = (timm.create_model(SMALL).eval() for _ in range(2))
    path = tmp_path / "model_best.pth.tar"
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict()}, path)

    def spec(**backbone: str) -> StudySpec:
        document = {
            "name": "own",
            "backbone": {"name": SMALL, "weights": str(path), **backbone},
            "data": {"path": str(folder), "search_images": 3, "confirm_images": 3},
            "objectives": {"accuracy": "agreement"},
            "runtime": {"device": "cpu", "dtype": "float32"},
        }
        return make_spec(document, "test")

    new = ScheduleEvaluator.open(spec())
    assert (new.backbone.fingerprint, new.backbone.weights_key) == (fingerprint(averaged), "state_dict_ema")
    named = ScheduleEvaluator.open(spec(weights_key="state_dict"))
    assert (named.backbone.fingerprint, named.backbone.weights_key) == (fingerprint(raw), "state_dict")

    before = facts_of(named).to_dict()
    del before["weights_key"]  # as studies from before the choice have it
    old = Calibration.from_dict(before)
    continued = ScheduleEvaluator.open(spec(), old)
    continued.use(old)
    assert continued.backbone.fingerprint == fingerprint(raw)
    known = replace(facts_of(new), weights_key="state_dict_ema")
    again = ScheduleEvaluator.open(spec(), known)
    again.use(known)
    with pytest.raises(
        SearchError,
        match=r"weights must be those it was launched with.*; of several in one file, backbone\.weights_key says which",
    ):
        named.use(known)
