"""A tiny real comparison end to end, and which images and schedules take part in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from timm.models.vision_transformer import VisionTransformer

from pruning.architectures import describe
from pruning.backbones import Backbone
from pruning.config import Config
from pruning.flops import FlopCounter, count_flops
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation.compare import runner
from search.evaluation.compare.entries import Levels, read_contenders
from search.evaluation.compare.statistics import Comparison, Row, mcnemar
from search.evaluation.data.splits import open_images
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.schedule_evaluator import ScheduleEvaluator

Spec = Callable[..., StudySpec]


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    monkeypatch.setattr(runner, "load_backbone", lambda name, weights, **options: backbone)


@pytest.fixture
def observed() -> list[tuple[int, int, Row]]:
    return []


def run(spec: StudySpec, observed: list[Any], methods: str, levels: Levels, **arguments: Any) -> Comparison:
    given: dict[str, Any] = {"images": 16, "searched": False, "configs": ()}
    contenders = read_contenders(methods, [], 3)
    return runner.compare(
        spec, contenders, levels, **{**given, **arguments}, observe=lambda *told: observed.append(told)
    )


def test_all_rows_answer_the_same_images_at_equal_flops(
    small_spec: Spec,
    make_evaluator: Callable[..., ScheduleEvaluator],
    facts_of: Callable[..., Any],
    backbone: Backbone,
    observed: Any,
) -> None:
    spec = small_spec()
    found = run(spec, observed, "random,cls-attention", Levels(gflops=(0.15,)))
    assert [row.name for row in found.rows] == ["random", "cls-attention"]
    assert [(done, total, row.name) for done, total, row in observed] == [(1, 2, "random"), (2, 2, "cls-attention")]
    assert found.images == "16 of the demo, seed 0; labels: class indices as given"
    images, _ = runner.choose_images(spec, backbone, 16, False, [])
    evaluator = ScheduleEvaluator(
        EvaluationContext(spec, backbone, images, make_evaluator(backbone, spec).context.device)
    )
    evaluator.use(facts_of(evaluator))
    right = []
    for row in found.rows:
        measured = row.measurement
        assert measured is not None
        assert 0.149e9 < measured.flops <= 0.15e9
        assert (measured.throughput.how, measured.accuracy.images, measured.setting.dtype) == (
            "measured",
            16,
            "float32",
        )
        again = evaluator.measure(measured.schedule, measured.throughput)
        assert again.accuracy == measured.accuracy
        right.append(evaluator.bits(again))
    best = int(found.rows[1].best)
    other = found.rows[1 - best]
    assert other.verdict is not None
    assert (other.verdict.p, other.verdict.wins, other.verdict.losses) == mcnemar(right[1 - best], right[best])
    assert found.dense.flops == 353_295_648
    saving = found.saving
    assert saving is not None
    assert saving.flops == evaluator.flops(Schedule()) < found.dense.flops
    assert saving.throughput.speedup != 1.0  # measured like any row's
    assert saving.schedule.exact_savings
    assert saving.accuracy == evaluator.measure(Schedule(), saving.throughput).accuracy
    for each in (found.dense, saving, *(row.measurement for row in found.rows)):
        costs = found.costs[each.key]
        schedule = each.schedule
        assert costs.without_savings == count_flops(backbone.model, schedule, exact_savings=False)
        assert costs.with_savings == count_flops(backbone.model, replace(schedule, exact_savings=True))
        assert each.flops == (costs.with_savings if schedule.exact_savings else costs.without_savings)


def test_a_backbone_whose_head_reads_every_token_has_no_exact_savings(evaluator: ScheduleEvaluator) -> None:
    model = VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=12, depth=2, num_heads=3, global_pool="avg"
    )
    whole = replace(evaluator.backbone, model=model.eval(), family=describe(model))
    assert (
        runner._measure_saving(
            ScheduleEvaluator(
                EvaluationContext(evaluator.spec, whole, evaluator.context.images, evaluator.context.device)
            )
        )
        is None
    )
    counter = FlopCounter(model)
    costs = runner.both_costs(counter, Schedule([Stage(0, 0.5)], "random"))
    assert costs.without_savings == costs.with_savings


def test_a_configuration_of_several_methods_is_named_by_all(evaluator: ScheduleEvaluator) -> None:
    mixed = Schedule([Stage(2, 0.5), Stage(5, 0.7, method="tome"), Stage(7, 0.7)])
    (entry,) = runner.line_up(evaluator.backbone, [], Levels(), [("best", Config({}, mixed))])
    assert (entry.name, entry.method, entry.schedule) == ("best", "zero-tprune + tome", mixed)


def exported(path: Path, schedule: Schedule, **blocks: Any) -> Path:
    document = {"backbone": {"name": "demo", "weights": "bundled"}, "schedule": schedule, **blocks}
    Config(**document).write(path)
    return path


def test_a_configuration_joins_and_sets_the_level(small_spec: Spec, tmp_path: Path, observed: Any) -> None:
    path = exported(tmp_path / "best.yaml", Schedule([Stage(2, 0.5), Stage(6, 0.5)], "random"))
    found = run(small_spec(), observed, "cls-attention", Levels(), configs=[path], images=4)
    best, rival = found.rows
    assert (best.name, rival.name) == ("best", "cls-attention")
    assert best.level == rival.level
    assert best.measurement is not None
    assert rival.measurement is not None
    assert rival.measurement.flops <= best.measurement.flops + 50_000  # a level is told in four digits


def test_images_that_a_search_saw_are_left_out(small_spec: Spec, backbone: Backbone) -> None:
    spec = small_spec(data={"search_images": 2000, "confirm_images": 8000})
    config = Config({}, UNTOUCHED, data={"source": "demo", "search_images": 100, "confirm_images": 5, "seed": 3})
    seen = open_images(spec.data, spec.objectives, backbone).search_indices
    theirs = small_spec(data={"search_images": 100, "confirm_images": 5, "seed": 3})
    also_seen = open_images(theirs.data, theirs.objectives, backbone).search_indices
    chosen, words = runner.choose_images(spec, backbone, None, True, [config])
    assert len(chosen.search_indices) == runner.IMAGES
    assert np.intersect1d(chosen.search_indices, np.union1d(seen, also_seen)).size == 0
    assert "none of them searched on" in words
    with pytest.raises(InputError, match=r"--images must be in 1\.\.79\d\d, .* that no search has seen, got 9000"):
        runner.choose_images(spec, backbone, 9000, True, [config])


def test_images_of_another_folder_leave_none_out(small_spec: Spec, backbone: Backbone) -> None:
    config = Config({}, UNTOUCHED, data={"path": "/elsewhere", "search_images": 100, "confirm_images": 5})
    chosen, _ = runner.choose_images(small_spec(), backbone, 10_000, False, [config])
    assert list(chosen.search_indices) == list(range(10_000))


@pytest.fixture
def evaluator(
    small_spec: Spec, backbone: Backbone, make_evaluator: Callable[..., ScheduleEvaluator]
) -> ScheduleEvaluator:
    return make_evaluator(backbone, small_spec())


def test_unless_asked_levels_are_shares_of_the_dense_cost(evaluator: ScheduleEvaluator) -> None:
    found = runner.line_up(evaluator.backbone, read_contenders("random", [], 3), Levels(), [])
    assert [entry.level for entry in found] == ["0.2826 GFLOPs", "0.2296 GFLOPs", "0.1766 GFLOPs"]


def test_configurations_stand_at_the_lowest_level_that_they_keep_to(evaluator: ScheduleEvaluator) -> None:
    costs = {"dear": Schedule([Stage(5, 0.9)]), "cheap": Schedule([Stage(0, 0.5), Stage(3, 0.5)])}
    assert evaluator.flops(costs["dear"]) > 0.3e9 > 0.2e9 > evaluator.flops(costs["cheap"])
    configs = [(name, Config({}, schedule)) for name, schedule in costs.items()]
    found = runner.line_up(evaluator.backbone, read_contenders("random", [], 3), Levels(gflops=(0.2, 0.3)), configs)
    own = f"{evaluator.flops(costs['dear']) / 1e9:.4g} GFLOPs"
    assert [(entry.name, entry.level) for entry in found] == [
        ("dear", own),  # above every level
        ("random", "0.3 GFLOPs"),
        ("cheap", "0.2 GFLOPs"),
        ("random", "0.2 GFLOPs"),
    ]
    assert [entry.level for entry in runner.line_up(evaluator.backbone, [], Levels(keeps=(0.5,)), configs[:1])] == [own]


@pytest.mark.parametrize(
    ("levels", "rule"),
    [
        (Levels(gflops=(0.4,)), r"--gflops must be below the 0\.3533 GFLOPs of the dense model, got 0\.4; lower it"),
        (Levels(gflops=(0.01,)), r"0\.01 GFLOPs: some method must reach it, got none; random: cannot go below"),
        (Levels(keeps=(0.001,)), r"keep 0\.001: some method must reach it, got none; .*at least one patch token"),
        (Levels(keeps=(0.5,), blocks=(2, 11)), "--blocks must be at most 10 for a backbone of 12 blocks.*got 11"),
    ],
)
def test_levels_that_nobody_can_be_at(evaluator: ScheduleEvaluator, levels: Levels, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        runner.line_up(evaluator.backbone, read_contenders("random", [], None), levels, [])


def test_a_method_that_needs_a_class_token_says_so_where_there_is_none(evaluator: ScheduleEvaluator) -> None:
    model = VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=12, depth=12, num_heads=3,
        class_token=False, global_pool="avg",
    )  # fmt: skip
    bare = replace(evaluator.backbone, model=model.eval(), family=describe(model))
    other = ScheduleEvaluator(
        EvaluationContext(evaluator.spec, bare, evaluator.context.images, evaluator.context.device)
    )
    random, needy = runner.line_up(
        other.backbone, read_contenders("random,cls-attention", [], 3), Levels(keeps=(0.5,)), []
    )
    assert random.schedule is not None
    assert needy.schedule is None
    assert "must not need a class token" in needy.absent


@pytest.mark.parametrize(
    ("backbone_block", "rule"),
    [
        ({"name": "deit_tiny_patch16_224", "weights": "random"}, "backbone.name must be that of the comparison, demo"),
        (
            {"name": "demo", "weights": "bundled", "fingerprint": "0"},
            "backbone.fingerprint must be that of the compared",
        ),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    small_spec: Spec, tmp_path: Path, observed: Any, backbone_block: dict[str, str], rule: str
) -> None:
    path = exported(tmp_path / "best.yaml", Schedule([Stage(2, 0.5)]))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "backbone": backbone_block}))
    with pytest.raises((InputError, ValueError), match=rule):
        run(small_spec(), observed, "random", Levels(), configs=[path])
    assert observed == []
