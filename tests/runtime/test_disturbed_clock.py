"""A study whose finalists are timed while other work keeps the processors busy, and once more in peace."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.evaluation import calibrator, evaluation_context, throughput
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.throughput import MAX_WAITING, NARROW, THREADS
from search.reporting import formatting, front_notes
from search.reporting.export import Limits, choose, to_config
from search.reporting.report import front_json
from search.runtime import confirmation
from search.runtime.launch import launch
from search.types import Evaluation, Front, Progress
from tests.conftest import busy_machine, make_evaluation

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
        strict.setattr(confirmation, "_predicted_s", lambda finalist: 100.0)  # all of them have the time
        strict.setattr(throughput, "MAX_WAITING", MAX_WAITING)
        strict.setattr(throughput, "NARROW", NARROW)
        assert launch(started.evaluator.spec, store.url, ignore).state == "done"
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
    assert launch(started.evaluator.spec, store.url, ignore).state == "done"
    quiet = store.front(study.id)
    assert not quiet.is_disturbed
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
    assert launch(started.evaluator.spec, store.url, ignore).state == "done"
    assert timed == []


@pytest.mark.slow
def test_the_clocks_of_all_finalists_have_a_limit_that_is_announced(
    start: Callable[..., Any], tiny_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(tiny_spec(budget={"trials": 1 + len(KEEPS)}, sampler={"name": "tpe"}))
    store, study = started.store, started.record
    started.run()
    started.queue(*(Schedule([Stage(2, keep)]) for keep in KEEPS))
    seconds = itertools.count(0.0, 45.0)  # each clock runs so long, of 20 s a finalist
    timed: list[Schedule] = []

    def brief(model: PrunedViT, schedule: Schedule, images: Any) -> throughput.PairedTiming:
        timed.append(schedule)
        return replace(throughput.time_pairs(model, schedule, images, repeats=3), disturbed="a noisy neighbour")

    told: list[Progress] = []
    with monkeypatch.context() as noisy:
        noisy.setattr(evaluation_context, "time_pairs", brief)
        noisy.setattr(confirmation, "working_time", lambda: next(seconds))
        noisy.setattr(confirmation, "_predicted_s", lambda finalist: 1.0)
        noisy.setenv("ZTP_TIMING_LIMIT", "20")
        assert launch(started.evaluator.spec, store.url, told.append).state == "done"
    front = store.front(study.id)
    finalists = 1 + len(confirmed(front))
    limit_s = 20.0 * finalists
    confirming = [progress for progress in told if progress.state == "confirming"]
    assert {progress.clock_limit_s for progress in confirming} == {limit_s}
    moves = [progress.clock_s for progress in confirming]
    assert moves == sorted(moves)
    fits = math.ceil(limit_s / 45.0)  # the last begins before the limit
    assert len(timed) == fits < finalists
    assert moves[-1] == store.progress(study.id).clock_s == 45.0 * fits
    reasons = [point.confirm.throughput.disturbed for point in (front.dense, *confirmed(front))]
    late = f"not timed, for the clocks of all finalists had used up their {limit_s:g}s"
    assert sorted(reason == late for reason in reasons) == sorted([False] * fits + [True] * (finalists - fits))
    assert front.is_disturbed
    for point in confirmed(front):
        assert formatting.speedup(point.confirm.throughput) == f"{point.search.throughput.speedup:.2f}x?"
    assert late in front_notes.disturbed_notes(front)[0]

    timed.clear()
    with monkeypatch.context() as quiet:
        quiet.setattr(evaluation_context, "time_pairs", functools.partial(throughput.time_pairs, repeats=3))
        assert launch(started.evaluator.spec, store.url, ignore).state == "done"
    assert not store.front(study.id).is_disturbed


def test_a_clock_limit_grows_with_what_quiet_passes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    # batches of 64 at 180 images/s dense; 8 pairs of passes (a warm-up and 7) of 0.356 and 0.356 / 2 s: 4.27 s
    finalist = make_evaluation(7, 0.8, 2.0)
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "20")
    assert confirmation.clock_limit_s([finalist] * 3) == 60.0
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "1")
    assert confirmation.clock_limit_s([finalist] * 3) == math.ceil(2 * 3 * 8 * 64 / 180 * 1.5)
    assert confirmation.clock_limit_s([finalist], clocks=3) == math.ceil(3 * 2 * 8 * 64 / 180 * 1.5)
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "0")
    assert confirmation.clock_limit_s([finalist]) is None


def test_a_disturbed_profile_is_marked_and_no_other_study_takes_it_over(
    start: Callable[..., Any], tiny_spec: Callable[..., Any], profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.delenv("ZTP_TIMING_LIMIT")
    monkeypatch.setattr(calibrator, "measure_profile", lambda *given: taken.append(given) or profile)
    words = "other work on this machine kept its threads waiting for 40% of the time"
    found = iter([words, words, words, ""])
    monkeypatch.setattr(throughput, "disturbed_by", lambda share: next(found))
    first = start(tiny_spec()).evaluator
    first._calibration = None
    facts = first.calibrate()
    assert len(taken) == 2  # once more, in the hope of peace
    assert (facts.disturbed, facts.profile_key) == (words, "")
    second = start(tiny_spec(name="second")).evaluator
    second._calibration = None
    second.learn({"tiny": facts})
    known = second.calibrate()
    assert len(taken) == 4
    assert (known.disturbed, known.profile_from) == ("", "")
    assert known.profile_key
