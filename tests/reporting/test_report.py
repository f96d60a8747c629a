"""The front as table, JSON and CSV. Read back as their readers read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.spec import StudyRecord
from search.reporting import report, tables
from search.types import FLOP_CONVENTION, Accuracy, Evaluation, Front, Latency

Printed = Callable[..., str]


def test_table_shows_both_accuracies_of_every_point(printed: Printed, study: StudyRecord, front: Front) -> None:
    lines = printed(report.front_table(study, front)).splitlines()
    row = next(line for line in lines if line.split()[:1] == ["3"])
    for cell in ("89.30 ±1.35", "89.10 ±0.68", "231", "1.28x ±1.2%", "0.192", "2:0.91 5:0.91 8:0.91"):
        assert cell in row


def test_a_table_has_one_form_of_interval_and_says_which(
    printed: Printed, study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    few = make_evaluation(7, 0.9, 1.5)
    few = replace(few, search=replace(few.search, accuracy=Accuracy(1.0, 0.7225, 1.0, 10)))
    text = printed(report.front_table(study, replace(front, points=(*front.points, few))))
    assert "100.00 (72..100)" in text
    assert "89.30 (87.9..90.7)" in text
    assert "in brackets the 95% interval" in text
    rows = [line for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert not [line for line in rows if "±" in line.partition(")")[0]]
    assert "± half the 95% interval" in printed(report.front_table(study, front))
    narrow = printed(report.front_table(study, replace(front, points=(*front.points, few))), 80)
    assert "…" not in narrow
    assert "89.10 (88.4..89.8)" in narrow


def test_a_hypervolume_of_nothing_is_explained(printed: Printed, study: StudyRecord, front: Front) -> None:
    text = " ".join(printed(report.front_table(study, replace(front, hypervolume=0.0))).split())
    assert "hypervolume: 0, for no point is above 80.20 % and faster than 1x" in text
    assert "hypervolume: 0" not in printed(report.front_table(study, front))


def test_table_is_sorted_as_the_front_is(printed: Printed, study: StudyRecord, front: Front) -> None:
    lines = printed(report.front_table(study, front)).splitlines()
    trials = [int(line.split()[0]) for line in lines if line.split()[:1] and line.split()[0].isdigit()]
    assert trials == [point.trial for point in front.points]


def test_table_names_the_study_and_states_machine_and_flops(printed: Printed, study: StudyRecord, front: Front) -> None:
    text = printed(report.front_table(study, front), width=200)
    for fact in ("shirts: front of 5 points, version 6 (after 8 trials)", "EPYC", FLOP_CONVENTION):
        assert fact in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_table_fits_the_terminal_and_leaves_out_whole_columns(
    printed: Printed, study: StudyRecord, front: Front, width: int
) -> None:
    text = printed(report.front_table(study, front), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "trial" in text
    for point in front.points:
        for stage in point.search.schedule.stages[:1]:
            assert f"{stage.block}:{stage.keep:g}" in text
    assert "89.10 ±0.68" in text
    assert ("wide: GFLOPs" in " ".join(text.split())) == (width < 80)


@pytest.mark.parametrize("first", [0, 1])
def test_table_shows_the_dense_model_once_on_the_front_or_not(
    printed: Printed, study: StudyRecord, front: Front, first: int
) -> None:
    lines = printed(report.front_table(study, replace(front, points=front.points[first:]))).splitlines()
    assert sum(line.rstrip().endswith("dense") for line in lines) == 1


def marked(study: StudyRecord, front: Front) -> list[tuple[int, str]]:
    """Trials and marks in the JSON document, which are those in the CSV."""
    points, names = report.front_json(study, front)["points"], ("for_flops", "dominated")
    rows = list(csv.DictReader(io.StringIO(report.front_csv([(study, front)]))))
    assert [[row[name] for name in names] for row in rows] == [[str(point[name]) for name in names] for point in points]
    return [(point["trial"], name) for point in points for name in names if point[name]]


def test_table_marks_what_confirmed_numbers_put_behind(printed: Printed, study: StudyRecord, front: Front) -> None:
    slower = front.points[1]
    assert slower.confirm is not None
    slow = replace(slower.confirm, throughput=replace(slower.confirm.throughput, speedup=0.97))
    points = (front.points[0], replace(slower, confirm=slow), *front.points[2:])
    text = printed(report.front_table(study, replace(front, points=points)), 140)
    assert [line.split()[0] for line in text.splitlines() if line.lstrip().startswith("*")] == ["*2"]
    assert marked(study, replace(front, points=points)) == [(2, "dominated")]
    assert "marked *: by the confirmed numbers another row is at least as accurate and as fast" in text
    assert "*" not in printed(report.front_table(study, front))


def test_table_marks_what_stands_for_its_flops(printed: Printed, study: StudyRecord, front: Front) -> None:
    """Slower than trial 3 and less accurate, and measured so: a third of its FLOPs is what it stands there for."""
    other, slower = front.points[2], front.points[1]
    search = replace(
        slower.search,
        accuracy=replace(slower.search.accuracy, value=other.search.accuracy.value - 0.001),
        flops=other.search.flops // 3,
    )
    points = (front.points[0], replace(slower, search=search), *front.points[2:])
    text = printed(report.front_table(study, replace(front, points=points)), 140)
    assert [line.split()[0] for line in text.splitlines() if line.lstrip().startswith("#")] == ["#2"]
    assert marked(study, replace(front, points=points)) == [(2, "for_flops")]
    assert "marked #: best for their FLOPs" in text
    assert "#" not in printed(report.front_table(study, front))


def test_table_says_how_a_limit_on_speed_was_kept(printed: Printed, study: StudyRecord, front: Front) -> None:
    asked = replace(study, document={**study.document, "budget": {**study.document["budget"], "min_speedup": 1.6}})
    text = " ".join(printed(report.front_table(asked, front)).split())
    assert "budget.min_speedup 1.6: the search kept it by predicted speed" in text
    assert "export passes them over: 2 (1.12x), 3 (1.28x), 5 (1.59x)" in text
    assert "min_speedup" not in printed(report.front_table(study, front))


def test_table_names_methods_only_if_they_differ(
    printed: Printed, study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    assert "zero-tprune 2:" not in printed(report.front_table(study, front))
    mixed = make_evaluation(9, 0.7, 2.2, stages=[Stage(2, 0.5)], method="random")
    text = printed(report.front_table(study, replace(front, points=(*front.points, mixed))))
    assert "random 2:0.5" in text
    assert "zero-tprune 2:0.91" in text


def test_json_is_the_contract(study: StudyRecord, front: Front) -> None:
    document = json.loads(json.dumps(report.front_json(study, front)))
    assert set(document) >= {"study", "dense", "hypervolume", "points"}
    assert document["study"] == "shirts"
    assert document["dense"] == {"accuracy": 0.902, "throughput": 180.0, "gflops": 0.251}
    assert [p["throughput"] for p in document["points"]] == sorted(p["throughput"] for p in document["points"])
    contract = {"trial", "accuracy", "accuracy_ci95", "images", "throughput", "speedup", "gflops", "schedule"}
    for shown, point in zip(document["points"], front.points, strict=True):
        assert set(shown) == contract | {"confirm", "estimate", "fidelity", "for_flops", "dominated"}
        assert shown["accuracy_ci95"][0] < shown["accuracy"] < shown["accuracy_ci95"][1]
        assert Schedule.from_dict(shown["schedule"]) == point.search.schedule
        assert shown["throughput"] == pytest.approx(shown["speedup"] * document["dense"]["throughput"])


def test_json_states_machine_and_flop_convention_and_confirm(study: StudyRecord, front: Front) -> None:
    document = report.front_json(study, front)
    assert document["flop_convention"] == FLOP_CONVENTION
    assert document["hardware"] == ["cpu: AMD EPYC 7B13, 2 threads, float32, batches of 64"]
    confirm = document["points"][2]["confirm"]
    assert set(confirm) == {
        "accuracy",
        "accuracy_ci95",
        "images",
        "fidelity",
        "throughput",
        "speedup",
        "spread",
        "disturbed",
        "estimate",
    }
    assert (confirm["accuracy"], confirm["images"], confirm["spread"]) == (0.891, 8000, 0.012)


def test_json_before_anything_is_confirmed_or_dense(
    study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    bare = replace(front, dense=None, points=(make_evaluation(1, 0.8, 1.1),))
    document = report.front_json(study, bare)
    assert document["dense"] is None
    assert document["points"][0]["confirm"] is None


def test_csv_reads_back(study: StudyRecord, front: Front) -> None:
    rows = list(csv.DictReader(io.StringIO(report.front_csv([(study, front)]))))
    assert [int(row["trial"]) for row in rows] == [point.trial for point in front.points]
    for row, point in zip(rows, front.points, strict=True):
        assert float(row["accuracy"]) == point.search.accuracy.value
        assert float(row["accuracy_low"]) == point.search.accuracy.low
        assert point.confirm is not None
        assert float(row["confirm_accuracy"]) == point.confirm.accuracy.value
        assert float(row["gflops"]) == point.search.gflops
        assert (row["device"], row["flop_convention"]) == (point.search.setting.device, FLOP_CONVENTION)


def test_csv_leaves_empty_what_is_not_known(
    study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    text = report.front_csv([(study, replace(front, points=(make_evaluation(1, 0.8, 1.1),)))])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["confirm_accuracy"] == row["spread"] == ""
    assert None not in row.values()


def test_show_writes_no_padding_into_a_pipe(
    capsys: pytest.CaptureFixture[str], study: StudyRecord, front: Front
) -> None:
    tables.show(report.front_table(study, front))
    out = capsys.readouterr().out
    assert out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= tables.PLAIN_WIDTH


def replay(study_point: Evaluation, reproduced: bool | None, **changes: Any) -> Any:
    from search.evaluation.reproduce import Replay  # here: it loads torch

    found = Replay(study_point.search, 0.893, study_point.search.flops, reproduced is not None, reproduced)
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("reproduced", "verdict"),
    [(True, "reproduced: accuracy and FLOPs are exactly"), (False, "NOT reproduced"), (None, "other images")],
)
def test_replay_table_says_whether_it_came_out_the_same(
    printed: Printed, front: Front, reproduced: bool | None, verdict: str
) -> None:
    text = printed(report.replay_table("best.yaml", replay(front.points[2], reproduced)))
    assert f"best.yaml: {verdict}" in text
    assert "89.30 ±1.35" in text
    assert "191,603,053" in text
    assert FLOP_CONVENTION in text


def test_replay_of_a_file_without_metrics(printed: Printed, front: Front) -> None:
    bare = replay(front.points[2], None, recorded_accuracy=None, recorded_flops=None)
    assert " - " in printed(report.replay_table("best.yaml", bare))
    assert report.replay_json(bare)["recorded"] == {"accuracy": None, "flops": None, "dtype": "float32"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "best.yaml: FLOPs are exactly those recorded; its accuracy was recorded in bfloat16"),
        ({"recorded_flops": 1}, "best.yaml: FLOPs DIFFER from those recorded; its"),
        ({"recorded_flops": None}, "best.yaml: no FLOPs are recorded; its"),
    ],
)
def test_replay_in_another_number_format_compares_what_it_can(
    printed: Printed, front: Front, changes: dict[str, Any], words: str
) -> None:
    other = replay(front.points[2], None, recorded_dtype="bfloat16", **changes)
    text = " ".join(printed(report.replay_table("best.yaml", other), 100).split())
    assert words in text
    assert "and ran with 2 threads now" in text
    assert "ztp evaluate best.yaml --runtime torch" in text
    assert report.replay_json(other)["recorded"]["dtype"] == "bfloat16"


def test_replay_tells_memory_and_energy_where_the_machine_does(printed: Printed, front: Front) -> None:
    told = Latency(1, 8.0, 9.0, 10.0, 100, peak_mib=87.25, joules_per_image=0.1234)
    untold = Latency(32, 80.0, 90.0, 100.0, 100)
    point = front.points[2]
    throughput = replace(point.search.throughput, latencies=(told, untold))
    changed = replace(point, search=replace(point.search, throughput=throughput))
    found = replay(changed, True, dense_latencies=(replace(told, peak_mib=1210.4, joules_per_image=None),))
    rows = [" ".join(line.split()) for line in printed(report.replay_table("best.yaml", found)).splitlines()]
    wanted = (
        "MiB, batch 1 87.2",
        "J an image, batch 1 0.123",
        "ms, batch 32 80 / 90 / 100",
        "dense MiB, batch 1 1,210",
    )
    assert [row for row in wanted if row not in rows] == []
    assert not [row for row in rows if row.startswith(("MiB, batch 32", "J an image, batch 32", "dense J"))]
    assert any(row.startswith("MiB: most resident memory that the loaded model") for row in rows)
    first, second = report.replay_json(found)["latency_ms"]
    assert (first["peak_mib"], first["joules_per_image"]) == (87.25, 0.1234)
    assert set(first) - set(second) == {"peak_mib", "joules_per_image"}
    bare = " ".join(printed(report.replay_table("best.yaml", replay(point, True))).split())
    assert "MiB" not in bare
    assert "J:" not in bare


def test_replay_json(front: Front) -> None:
    document = json.loads(json.dumps(report.replay_json(replay(front.points[2], True))))
    assert document["reproduced"] is True
    assert (document["accuracy"], document["images"], document["split"]) == (0.893, 2000, "search")
    assert document["recorded"] == {"accuracy": 0.893, "flops": document["flops"], "dtype": "float32"}
    assert document["flops"] == round(1e9 * document["gflops"])
