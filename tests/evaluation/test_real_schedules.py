"""The real-model benchmark's schedules: at every level the dearest that keeps to it, laid out as published.

On the shape of DeiT-Tiny and of the demo; no image is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.backbones import sketch_backbone
from pruning.errors import PruningError, ScheduleError
from pruning.flops import FlopCounter
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config import published_schedules as published
from search.errors import InputError
from tests.benchmarks import real_ablation
from tests.benchmarks.real_fronts import Front, Point, read_fronts
from tests.benchmarks.real_schedules import EQUAL, Entry, Ground, Level, line_up

PERCENTS = (33, 40, 50, 60)


@pytest.fixture(scope="module", params=["deit_tiny_patch16_224", "demo"])
def ground(request: pytest.FixtureRequest) -> Ground:
    backbone = sketch_backbone(request.param)
    return Ground(backbone.family, FlopCounter(backbone.model).count)


def at(ground: Ground, percent: float, *methods: str) -> list[Entry]:
    return list(line_up(ground, Level.below(ground.cost(UNTOUCHED), percent), methods or tuple(METHODS)))


@pytest.mark.parametrize("percent", PERCENTS)
def test_every_method_keeps_to_the_level_and_comes_near_it(ground: Ground, percent: float) -> None:
    """A token costs at most 0.5% of the dense model, and at equal keeps three of them leave at once."""
    dense = ground.cost(UNTOUCHED)
    level = Level.below(dense, percent)
    for entry in at(ground, percent):
        assert (entry.level, entry.schedule is None) == (f"-{percent}%", entry.absent != "")
        if entry.schedule is None:
            assert METHODS[entry.name].pairs  # at most half of a stage's tokens may leave
            continue
        cost = ground.cost(entry.schedule)
        assert cost <= level.flops
        assert entry.schedule.exact_savings
        assert entry.schedule.methods == (entry.name,)
        spare = 0.05 if "in every block" in entry.layout else 0.015  # one more token in eleven blocks
        assert cost > level.flops - spare * dense, entry


def test_layouts_of_each_method(ground: Ground) -> None:
    layouts = {method: [entry.layout for entry in at(ground, 40, method)] for method in METHODS}
    more = {"zero-tprune": 3, "tome": 2, "diffrate": 2, "ppt": 2}
    assert {method: len(each) for method, each in layouts.items()} == dict.fromkeys(METHODS, 1) | more
    assert {each[0] for each in layouts.values()} == {EQUAL}


def test_tomes_r_is_the_least_that_keeps_to_the_level(ground: Ground) -> None:
    entry = at(ground, 40, "tome")[1]
    assert entry.schedule is not None
    r = int(entry.layout.split()[1])
    assert entry.schedule == Schedule(published.constant("tome", r, 12, 196), "tome")
    less = Schedule(published.constant("tome", r - 1, 12, 196), "tome")
    assert ground.cost(entry.schedule) <= Level.below(ground.cost(UNTOUCHED), 40).flops < ground.cost(less)


def test_diffrates_row_is_the_nearest_and_hardly_scaled_at_its_own_cost(ground: Ground) -> None:
    counts = published.DIFFRATE["deit-tiny"]["0.7"]
    cost = ground.cost(Schedule(published.diffrate(counts, 12, 196), "diffrate"))
    (_, entry) = line_up(ground, Level("there", cost), ["diffrate"])
    name, _, scale = entry.layout.partition(", x")
    assert (name, float(scale)) == ("DiffRate's counts for deit-tiny 0.7", pytest.approx(1.0, abs=0.015))
    assert entry.schedule is not None
    assert 0.995 * cost < ground.cost(entry.schedule) <= cost


def test_below_what_scaling_can_reach_the_shares_are_raised(ground: Ground) -> None:
    for entry in (at(ground, 60, "diffrate")[1], at(ground, 60, "zero-tprune")[2]):
        assert "deit-tiny 0.6, shares to the power 1." in entry.layout
        assert entry.schedule is not None
        assert len(entry.schedule.stages) == 10  # all but the first block and the last


def test_zero_tprune_is_published_as_the_paper_has_it_and_on_diffrates_counts(ground: Ground) -> None:
    equal, paper, counts = (entry.schedule for entry in at(ground, 33, "zero-tprune"))
    assert equal is not None
    assert paper is not None
    assert counts is not None
    assert [(s.block, s.wpr_iterations) for s in paper.stages] == [(2, 30), (5, 5), (8, 1)]
    assert (paper.options["similarity"], paper.options["head_filter"]) == ("drop", True)
    keeps = [stage.keep for stage in paper.stages]
    assert keeps[0] > keeps[1] > keeps[2]
    defaults = Schedule().options
    assert (equal.options, counts.options) == (defaults, defaults)
    assert {stage.similarity_share for stage in counts.stages} == {Stage.similarity_share}
    assert len(counts.stages) > len(equal.stages) == 3


def test_what_cannot_be_reached_says_so(ground: Ground) -> None:
    """At most half of the tokens may merge at once: three such stages leave an eighth, behind block 8."""
    for entry in at(ground, 85, "tome", "ppt"):
        assert entry.schedule is None or "every block" in entry.layout
        assert not entry.absent or "cannot go below" in entry.absent
    assert any(entry.absent for entry in at(ground, 85, "ppt"))


# the ablation


def test_each_row_of_the_ablation_adds_one_thing_at_the_same_cost(ground: Ground) -> None:
    dense = ground.cost(UNTOUCHED)
    level = Level.below(dense, real_ablation.PERCENT)
    parts = {part.entry.name: part for part in real_ablation.line_up(ground, level)}
    for part in parts.values():
        assert part.entry.schedule is not None, part.entry.absent
        assert level.flops - 0.01 * dense < ground.cost(part.entry.schedule) <= level.flops
        assert [stage.block for stage in part.entry.schedule.stages] == [2, 5, 8]
    names = list(parts)
    chain = names[: names.index(real_ablation.RANKED)]
    assert [parts[name].versus for name in chain] == ["", *chain[:-1]]
    assert {parts[name].versus for name in names[len(chain) + 1 :]} == {real_ablation.RANKED}
    changed = [
        {
            key
            for key, value in schedule.options.items()
            if previous.options.get(key, value) != value and previous.method == schedule.method
        }
        for previous, schedule in zip(
            (parts[name].entry.schedule for name in chain[:-2]),
            (parts[name].entry.schedule for name in chain[1:-1]),
            strict=True,
        )
        if previous is not None and schedule is not None
    ]
    assert changed == [set(), {"aggregation"}, {"head_filter"}, {"similarity"}, {"similarity"}, {"unimportant"}]


def test_the_ablations_ends_are_the_paper_and_today(ground: Ground) -> None:
    level = Level.below(ground.cost(UNTOUCHED), real_ablation.PERCENT)
    schedules = {part.entry.name: part.entry.schedule for part in real_ablation.line_up(ground, level)}
    assert schedules["+ similarity step"] == next(
        entry.schedule for entry in at(ground, real_ablation.PERCENT, "zero-tprune") if "paper" in entry.layout
    )
    today, order = schedules["today's defaults"], schedules["order: class attention"]
    assert today is not None
    assert order is not None
    assert (today.options, order.options) == (Schedule().options, Schedule().options)
    for name in real_ablation.ORDERS:
        schedule = schedules[name]
        assert schedule is not None
        assert not any(plan.unimportant for plan in schedule.plan(ground.family.tokens))  # only S takes tokens


# fronts


CHEAP, MIDDLE, DEAR = (Schedule([Stage(2, keep)], "random") for keep in (0.3, 0.5, 0.9))


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        ([Point(CHEAP, 0.8, True), Point(MIDDLE, 0.82, True), Point(DEAR, 0.9, True)], MIDDLE),
        ([Point(CHEAP, 0.8, True), Point(MIDDLE, 0.85, False)], CHEAP),  # luck is no match for a confirmed accuracy
        ([Point(CHEAP, 0.8, False), Point(MIDDLE, 0.85, False), Point(DEAR, 0.9, True)], MIDDLE),
        ([Point(DEAR, 0.9, True)], None),
    ],
)
def test_the_best_point_within_the_level(ground: Ground, points: list[Point], chosen: Schedule | None) -> None:
    entry = Front("seed", tuple(points)).entry(Level("-x%", ground.cost(MIDDLE)), ground.cost)
    assert entry.schedule == chosen
    assert (entry.absent != "") == (chosen is None)


def front_document(*schedules: Schedule, confirm: float | None = None) -> dict[str, Any]:
    confirmed = None if confirm is None else {"accuracy": confirm}
    points = [{"accuracy": 0.9, "schedule": s.to_dict(), "confirm": confirmed} for s in schedules]
    return {"study": "s", "points": points, "hypervolume": 0.1}


def test_fronts_are_read_from_one_study_from_several_and_from_configurations(tmp_path: Path) -> None:
    small = Schedule([Stage(2, 0.5)], "ppt", {"threshold": 6e-05})  # which is text to YAML
    (tmp_path / "a.json").write_text(json.dumps(front_document(small, confirm=0.8)))
    (tmp_path / "b.json").write_text(json.dumps([front_document(CHEAP), front_document()]))
    own = {"block": 2, "keep": 0.3, "wpr_iterations": 1, "similarity_share": 0.9}  # of the first revision others
    old = {"backbone": {}, "schedule": {"method": "random", "stages": [own]}}
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(old | {"metrics": {"search": {"accuracy": 0.7}}}))
    fronts = read_fronts([tmp_path / name for name in ("a.json", "best.yaml")])
    assert fronts == [Front("a", (Point(small, 0.8, True),)), Front("best", (Point(CHEAP, 0.7, False),))]
    assert fronts[1].points[0].schedule.exact_savings  # given to all alike
    with pytest.raises(InputError, match=r"--front must name each file once, .*got b, s twice"):
        read_fronts([tmp_path / "b.json"])


def test_a_front_is_read_by_confirmed_accuracy_or_by_estimate() -> None:
    lucky, solid = Point(CHEAP, 0.9, True, 0.7, 0.3), Point(MIDDLE, 0.8, True, 0.8, 0.1)
    tied = Point(DEAR, 0.9, True, 0.6, 0.2)
    front, level = Front("f", (lucky, solid, tied)), Level("all", 10**12)
    assert front.entry(level, lambda schedule: 1).schedule == DEAR
    assert front.entry(level, lambda schedule: 1, "estimate").schedule == MIDDLE


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda d: d.pop("points"), r"a\.json must be what ztp front --json printed"),
        (lambda d: d["points"][0].pop("schedule"), r"a\.json: points\[0\] must have schedule and accuracy"),
        (lambda d: d["points"][0]["schedule"].update(method="tomme"), r"a\.json: points\[0\]: method must be one of"),
    ],
)
def test_other_documents_are_no_fronts(tmp_path: Path, spoil: Callable[[Any], Any], rule: str) -> None:
    document = front_document(MIDDLE)
    spoil(document)
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises((InputError, ScheduleError), match=rule):
        read_fronts([tmp_path / "a.json"])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"gone\.json: no such file; check the path"):
        read_fronts([tmp_path / "gone.json"])


def test_a_method_that_the_backbone_cannot_run_is_absent(ground: Ground) -> None:
    def refuse(schedule: Schedule) -> int:
        raise ScheduleError("method must not need a class token")

    (entry,) = line_up(replace(ground, cost=refuse), Level("-40%", 1), ["ats"])
    assert (entry.schedule, entry.absent) == (None, "method must not need a class token")


def test_a_front_can_be_read_at_a_speed() -> None:
    front = Front(
        "a", (Point(DEAR, 0.9, True, speedup=1.2), Point(MIDDLE, 0.85, True, speedup=1.6), Point(CHEAP, 0.8, True))
    )
    assert [front.entry_as_fast(speedup).schedule for speedup in (1.0, 1.2, 1.3, 1.6)] == [DEAR, DEAR, MIDDLE, MIDDLE]
    assert front.entry_as_fast(1.7).absent == "no point of its front is so fast"
    assert front.entry_as_fast(1.3).level == "1.3x"
