"""A study whose finalists are timed while other work keeps the processors busy, and once more in peace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from pruning.schedule import Schedule
from pruning.stage import Stage
from search.evaluation import evaluation_context, throughput
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.throughput import MAX_WAITING, NARROW, THREADS
from search.reporting import formatting, front_notes
from search.reporting.export import Limits, choose, to_config
from search.reporting.report import front_json
from search.runtime.launch import launch
from search.runtime.study_runner import is_disturbed
from search.types import Evaluation, Front, Progress
from tests.conftest import busy_machine

KEEPS = (0.85, 0.6, 0.35)  # far enough apart for any clock


def ignore(progress: Progress) -> None:
    pass


def confirmed(front: Front) -> list[Evaluation]:
    return [point for point in front.points if point.search.schedule.stages]


@pytest.mark.slow
@pytest.mark.skipif(not THREADS.exists(), reason="only Linux tells how long threads waited")
def test_disturbed_speeds_decide_nothing_and_are_measured_again(
    start: Callable[..., Any], tiny_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(tiny_spec(budget={"trials": 1 + len(KEEPS)}, sampler={"name": "tpe"}))
    store, study = started.store, started.record
    started.run()
    started.queue(*(Schedule([Stage(2, keep)]) for keep in KEEPS))

    brief = functools.partial(throughput.time_pairs, repeats=3)

    def beside_other_work(*given: Any) -> throughput.PairedTiming:
        with busy_machine():
            return brief(*given)

    with monkeypatch.context() as strict:
        strict.setattr(evaluation_context, "time_pairs", beside_other_work)
        strict.setenv("ZTP_TIMING_LIMIT", "1")
        strict.setattr(throughput, "MAX_WAITING", MAX_WAITING)
        strict.setattr(throughput, "NARROW", NARROW)
        assert launch(started.bench.spec, store.url, ignore).state == "done"
    busy = store.front(study.id)
    points = confirmed(busy)
    assert points
    for point in points:
        assert point.confirm is not None
        known = point.confirm.throughput
        assert (known.how, known.speedup) == ("profiled", point.search.throughput.speedup)
        assert "kept its threads waiting" in known.disturbed
        assert formatting.speedup(known) == f"{known.speedup:.2f}x?"
        assert to_config(study, point).metrics["throughput_disturbed"] == known.disturbed
    assert formatting.behind(busy) == set()
    (note,) = front_notes.disturbed_notes(busy)
    assert note.startswith("marked ?: the clock was disturbed, the prediction stands instead; the same ztp launch")
    told = {point["trial"]: point["confirm"]["disturbed"] for point in front_json(study, busy)["points"]}
    assert all(told[point.trial] for point in points)
    assert "prediction_error" in store.study("tiny").provenance
    assert store.study("tiny").provenance["prediction_error"] is None  # nothing to judge the profile by

    timed: list[Schedule] = []
    monkeypatch.setattr(
        evaluation_context,
        "time_pairs",
        lambda model, schedule, images: timed.append(schedule) or brief(model, schedule, images),
    )
    assert launch(started.bench.spec, store.url, ignore).state == "done"
    quiet = store.front(study.id)
    assert not is_disturbed(quiet)
    assert {point.search.schedule for point in points} <= set(timed)
    assert front_notes.disturbed_notes(quiet) == []
    for before, after in zip(points, confirmed(quiet), strict=True):
        assert after.confirm is not None
        assert before.confirm is not None
        assert after.confirm.accuracy == before.confirm.accuracy
        assert after.confirm.throughput.how == "measured"
    limits = Limits(min_speedup=points[-1].search.throughput.speedup * 0.9)
    assert choose(busy, limits).trial == points[-1].trial
    assert (
        choose(busy, Limits(max_gflops=points[0].search.gflops)).trial
        == choose(quiet, Limits(max_gflops=points[0].search.gflops)).trial
    )

    timed.clear()
    assert launch(started.bench.spec, store.url, ignore).state == "done"
    assert timed == []


def test_a_disturbed_profile_is_marked_and_no_other_study_takes_it_over(
    start: Callable[..., Any], tiny_spec: Callable[..., Any], profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.delenv("ZTP_TIMING_LIMIT")
    monkeypatch.setattr(evaluation_context, "measure_profile", lambda *given: taken.append(given) or profile)
    words = "other work on this machine kept its threads waiting for 40% of the time"
    found = iter([words, words, words, ""])
    monkeypatch.setattr(evaluation_context, "disturbed_by", lambda share: next(found))
    first = start(tiny_spec()).bench
    first._facts = None
    facts = first.find_facts()
    assert len(taken) == 2  # once more, in the hope of peace
    assert (facts.disturbed, facts.profile_key) == (words, "")
    second = start(tiny_spec(name="second")).bench
    second._facts = None
    second.learn({"tiny": facts})
    known = second.find_facts()
    assert len(taken) == 4
    assert (known.disturbed, known.profile_from) == ("", "")
    assert known.profile_key
