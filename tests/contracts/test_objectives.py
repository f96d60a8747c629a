"""Every kind of accuracy, on the bundled backbone and on a small CLIP tower of OpenCLIP's with random weights.

Whatever the kind: it is one truth value an image, equal to what a plain loop over images finds; a race may stop it, its
export is reproduced exactly, and a comparison takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pruning.backbones import load_backbone
from pruning.model import prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search import attribute_keys as keys
from search.config.objectives import K
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import InputError
from search.evaluation.calibration import Calibration
from search.evaluation.compare import runner
from search.evaluation.compare.entries import Levels, read_contenders
from search.evaluation.data.splits import Split, open_images
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.racing import Race, Requirement
from search.evaluation.reproduce import replay
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.evaluation.speed_meter import SpeedMeter
from search.reporting.export import to_config
from search.types import Evaluation, Throughput

open_clip = pytest.importorskip("open_clip")

TIMED = Throughput(100.0, 1.0, "measured", 0.0, 7)
COLOURS = {"red": (123, 114, 114), "green": (114, 123, 114), "blue": (114, 114, 123)}
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 128, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SCHEDULES = {
    "demo": Schedule([Stage(2, 0.6), Stage(5, 0.3)]),
    "clip": Schedule([Stage(0, 0.5, method="tome"), Stage(1, 0.4)]),
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `push_to_hf_hub` saves it, text tower and all."""
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, of its colour with much noise."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(24):
            pixels = rng.normal(colour, 90, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def make_study(
    tower: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], StudySpec]:
    folder = tmp_path_factory.mktemp("texts")
    np.save(folder / "unit.npy", np.eye(10, dtype=np.float32))

    def make(world: str, kind: str, **objectives: Any) -> StudySpec:
        if kind == "zero-shot":
            objectives["text"] = str(folder / "unit.npy") if world == "demo" else list(COLOURS)
        if kind == "knn":
            objectives["k"] = 5
        document: dict[str, Any] = {"name": "s", "objectives": {"accuracy": kind, **objectives}}
        document["runtime"] = {"batch_size": 7, "dtype": "float32", "device": "cpu"}
        if world == "demo":
            document |= {
                "backbone": {"name": "demo"},
                "data": {"source": "demo", "search_images": 40, "confirm_images": 12},
            }
            if kind in ("knn", "embedding"):
                document["objectives"]["gallery_images"] = 60
        else:
            data = {"path": str(photographs), "search_images": 36, "confirm_images": 10}
            document |= {"backbone": {"name": str(tower)}, "data": data}
        return make_spec(document, "test")

    return make


CASES = [
    ("demo", "top1"),
    *((world, kind) for world in ("demo", "clip") for kind in ("agreement", "knn", "zero-shot", "embedding")),
]


@pytest.fixture(scope="module")
def evaluators(make_study: Callable[..., StudySpec]) -> Callable[[str, str], ScheduleEvaluator]:
    """As after a launch, strata and all; each made once."""
    made: dict[tuple[str, str], ScheduleEvaluator] = {}

    def find(world: str, kind: str) -> ScheduleEvaluator:
        if (world, kind) not in made:
            spec = make_study(world, kind)
            backbone = load_backbone(spec.backbone.name, spec.backbone.weights)
            images = open_images(spec.data, spec.objectives, backbone)
            evaluator = ScheduleEvaluator(EvaluationContext(spec, backbone, images, torch.device("cpu")))
            facts = Calibration("float32", "asked for", "cpu", backbone.fingerprint, images.fingerprint, 100.0, None)
            evaluator.use(facts)
            evaluator.use(evaluator.stratify())
            made[world, kind] = evaluator
        return made[world, kind]

    return find


@torch.inference_mode()
def vectors(evaluator: ScheduleEvaluator, schedule: Schedule, split: Split, pre_logits: bool) -> torch.Tensor:
    """One image at a time, by timm's interface; each of length 1."""
    model = prune(evaluator.backbone.model, schedule)
    single = [model.forward_features(split.batch(place, place + 1)) for place in range(len(split))]
    found = torch.cat([model.forward_head(each, pre_logits=pre_logits) for each in single]).double()
    return found / found.norm(dim=1, keepdim=True)


def plain_answers(evaluator: ScheduleEvaluator, schedule: Schedule) -> list[int]:
    """The class of each search image, as the manual says it."""
    kind, split = evaluator.spec.objectives.accuracy, evaluator.context.search_split
    if kind in ("top1", "agreement"):
        return vectors(evaluator, schedule, split, False).argmax(1).tolist()
    if kind == "zero-shot":
        texts = torch.eye(10) if evaluator.spec.backbone.name == "demo" else clip_texts(evaluator.spec.backbone.name)
        return (vectors(evaluator, schedule, split, False) @ texts.double().T).argmax(1).tolist()
    gallery = evaluator.context.images.gallery()
    likeness = vectors(evaluator, schedule, split, True) @ vectors(evaluator, UNTOUCHED, gallery, True).T
    if kind == "embedding":
        return likeness.argmax(1).tolist()
    answers = []
    for row in likeness.numpy():
        nearest = np.argsort(-row)[: evaluator.spec.objectives.neighbours]
        assert gallery.labels is not None
        votes = dict.fromkeys(gallery.labels[nearest], 0.0)
        for place in nearest:
            votes[gallery.labels[place]] += np.exp(row[place] / 0.07)
        answers.append(int(max(votes, key=lambda label: votes[label])))
    return answers


@torch.inference_mode()
def clip_texts(folder: str) -> torch.Tensor:
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    prompts = [f"a photo of a {name}." for name in COLOURS]
    found: torch.Tensor = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(prompts))
    return found / found.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(("world", "kind"), CASES)
def test_an_image_is_right_as_a_plain_loop_has_it(world: str, kind: str, evaluators: Any) -> None:
    evaluator = evaluators(world, kind)
    schedule = SCHEDULES[world]
    measured = evaluator.measure(schedule, TIMED)
    answers = plain_answers(evaluator, schedule)
    right = plain_answers(evaluator, UNTOUCHED)
    if kind in ("top1", "knn", "zero-shot"):
        names = sorted(COLOURS) if kind == "knn" else list(COLOURS)
        labels = evaluator.context.search_split.labels
        assert labels is not None
        right = labels.tolist()
        folder = evaluator.context.images.source.name(int(evaluator.context.images.search_indices[0]))
        assert world == "demo" or names[right[0]] in folder
    assert evaluator.bits(measured).tolist() == [one == other for one, other in zip(answers, right, strict=True)]
    assert measured.accuracy.kind == kind
    assert measured.accuracy.low < measured.accuracy.value < measured.accuracy.high
    assert measured.fidelity is not None
    dense = plain_answers(evaluator, UNTOUCHED)
    assert measured.fidelity.agreement == pytest.approx(np.mean(np.equal(answers, dense)))
    assert 0 < measured.fidelity.divergence < 10


@pytest.mark.parametrize(("world", "kind"), CASES)
def test_the_dense_model_and_the_confirm_split(world: str, kind: str, evaluators: Any) -> None:
    evaluator = evaluators(world, kind)
    dense = evaluator.measure(UNTOUCHED, TIMED)
    assert evaluator.bits(dense).tolist() == evaluator._searcher.correct(UNTOUCHED).tolist()
    if kind in ("agreement", "embedding"):
        assert dense.accuracy.value == 1
    elif world == "demo":
        assert dense.accuracy.low > 1 / evaluator.context.readout.classes
    confirmed = evaluator.confirm(SCHEDULES[world], TIMED)
    assert (confirmed.accuracy.images, confirmed.accuracy.kind) == (len(evaluator.context.confirm_split), kind)
    assert not set(evaluator.context.images.gallery_indices) & {
        *evaluator.context.images.search_indices,
        *evaluator.context.images.confirm_indices,
    }


@pytest.mark.parametrize(("world", "kind"), CASES)
def test_a_race_stops_what_is_hopeless(world: str, kind: str, evaluators: Any) -> None:
    evaluator = evaluators(world, kind)
    rival = np.ones(len(evaluator.context.search_split), dtype=bool)
    race = Race((Requirement(rival, 0.5),), 0.05, evaluator.bits(evaluator.measure(UNTOUCHED, TIMED)))
    measured = evaluator.measure(SCHEDULES[world], TIMED, race)
    assert not measured.complete
    assert measured.accuracy.images < len(evaluator.context.search_split)
    assert (measured.accuracy.kind, 0 <= measured.accuracy.low <= measured.accuracy.high <= 1) == (kind, True)


@pytest.mark.parametrize(("world", "kind"), CASES)
def test_an_export_is_reproduced_exactly(
    world: str, kind: str, evaluators: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeedMeter, "time", lambda self, schedule: TIMED)
    evaluator = evaluators(world, kind)
    measured = evaluator.measure(SCHEDULES[world], TIMED)
    found = {keys.IMAGES: evaluator.context.images.fingerprint, keys.WEIGHTS: evaluator.backbone.fingerprint}
    study = StudyRecord(1, "s", "done", evaluator.spec.to_dict(), found, "2026-01-01T00:00:00")
    to_config(study, Evaluation(1, measured, feasible=True)).write(tmp_path / "best.yaml")
    again = replay(tmp_path / "best.yaml")
    assert (again.same_images, again.reproduced) == (True, True)
    assert again.measured.accuracy == measured.accuracy
    assert evaluator.bits(again.measured).tolist() == evaluator.bits(measured).tolist()


@pytest.mark.parametrize(("world", "kind"), CASES)
def test_a_comparison_takes_it(
    world: str, kind: str, make_study: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeedMeter, "time", lambda self, schedule: TIMED)
    spec = make_study(world, kind)
    if kind in ("knn", "embedding"):
        spec = make_study(world, kind, gallery_images=20)
    contenders, levels = read_contenders("random,tome", [], 1), Levels(keeps=(0.5,), blocks=(0,))
    found = runner.compare(spec, contenders, levels, 15, True, [], lambda *told: None)
    assert [row.measurement.accuracy.images for row in found.rows if row.measurement] == [15, 15]
    assert {row.measurement.accuracy.kind for row in found.rows if row.measurement} == {kind}
    assert sum(row.verdict is not None for row in found.rows) == 1  # a paired test of the two


def test_what_is_asked_is_part_of_the_identity(make_study: Callable[..., StudySpec]) -> None:
    """Another k, gallery or text is another question, whose answers must never be taken over."""
    backbone = load_backbone("demo", "bundled")
    asked = [{"accuracy": "knn", "k": 5}, {"accuracy": "knn", "k": 6}, {"accuracy": "knn", "k": 5, "gallery_images": 9}]
    asked += [{"accuracy": kind} for kind in ("top1", "agreement", "embedding")]
    asked += [
        {"accuracy": "zero-shot", "text": [f"{number}" for number in range(10)], "prompt": p} for p in ("{}", "a {}")
    ]
    found = {}
    for objectives in asked:
        document = {**make_study("demo", "top1").to_dict(), "objectives": objectives}
        spec = make_spec(document, "test")
        found[json.dumps(objectives)] = open_images(spec.data, spec.objectives, backbone).fingerprint
    plain = [json.dumps({"accuracy": kind}) for kind in ("top1", "agreement")]
    assert found[plain[0]] == found.pop(plain[1])  # as releases before had it: the kind stands beside the fingerprint
    assert len(set(found.values())) == len(found)


def test_unit_texts_are_the_classes(evaluators: Any) -> None:
    """The bundled backbone's ten outputs beside the ten unit vectors: zero-shot is top-1."""
    zero_shot, top1 = evaluators("demo", "zero-shot"), evaluators("demo", "top1")
    for schedule in (UNTOUCHED, SCHEDULES["demo"]):
        found = [evaluator.bits(evaluator.measure(schedule, TIMED)).tolist() for evaluator in (zero_shot, top1)]
        assert found[0] == found[1]


def test_neighbours_know_the_classes_of_the_demo(evaluators: Any) -> None:
    """Five of 60 images vote, of a model that is right on 90%."""
    assert evaluators("demo", "knn").measure(UNTOUCHED, TIMED).accuracy.value > 0.7


def test_logits_that_are_no_numbers_are_wrong_under_every_kind(evaluators: Any) -> None:
    for kind in ("knn", "zero-shot", "embedding"):
        readout = evaluators("demo", kind).context.readout
        width = 10 if kind == "zero-shot" else evaluators("demo", kind).backbone.model.num_features
        outputs = torch.randn(3, width)
        outputs[1, 0], outputs[2, 0] = float("nan"), float("inf")
        assert readout.scores(outputs).isfinite().all(1).tolist() == [True, False, False], kind


def test_texts_of_another_width_or_too_few_are_refused(tmp_path: Path) -> None:
    backbone = load_backbone("demo", "bundled")
    for shape, message in (((10, 9), r"as wide as an image's of demo, 10, got 9"), ((9, 10), r"a row for each class")):
        np.save(tmp_path / "t.npy", np.random.default_rng(0).standard_normal(shape))
        objectives = {"accuracy": "zero-shot", "text": str(tmp_path / "t.npy")}
        spec = make_spec({"name": "s", "backbone": {"name": "demo"}, "objectives": objectives}, "test")
        with pytest.raises(InputError, match=rf"objectives\.text must .*{message}"):
            open_images(spec.data, spec.objectives, backbone)


def test_pooled_features_are_not_what_is_exported(evaluators: Any, tmp_path: Path) -> None:
    evaluator = evaluators("demo", "knn")
    study = StudyRecord(1, "s", "done", evaluator.spec.to_dict(), {}, "2026-01-01T00:00:00")
    to_config(study, Evaluation(1, evaluator.measure(UNTOUCHED, TIMED), feasible=True)).write(tmp_path / "best.yaml")
    with pytest.raises(
        InputError, match=r"--runtime must be torch for a configuration whose accuracy is knn, got onnx"
    ):
        replay(tmp_path / "best.yaml", deployment={"runtime": "onnxruntime"})


def test_a_study_of_neighbours_needs_images_to_spare(evaluators: Any) -> None:
    spec = evaluators("demo", "knn").spec
    objectives = spec.objectives.model_copy(update={"gallery_images": None, "k": None})
    data = spec.data.model_copy(update={"search_images": 5000, "confirm_images": 4990})
    message = (
        rf"knn needs a gallery: {K} labelled images or more .*got 10 of the 10000 of the demo are left; lower data"
    )
    with pytest.raises(InputError, match=message):
        open_images(data, objectives, replace(evaluators("demo", "knn").backbone))
