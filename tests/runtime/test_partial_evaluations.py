"""Probes in a real study: before a trial, a few images say which of several candidates deserves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pruning.schedule import Schedule
from search.attribute_keys import PROBED
from search.runtime.trial_failures import TrialFailedError

Start = Callable[..., Any]
Spec = Callable[..., Any]

TRIALS = 9


@pytest.fixture
def probing(start: Start, tiny_spec: Spec) -> Any:
    """A study of 64 images, of which a probe sees 8, with the sampler that probes."""
    spec = tiny_spec(
        budget={"trials": TRIALS},
        data={"search_images": 64},
        sampler={"name": "auto"},
        racing={"strata": 1},
    )
    return start(spec)


def attributes(started: Any) -> list[dict[str, Any]]:
    return [trial.system_attrs[PROBED] for trial in started.trials() if PROBED in trial.system_attrs]


def test_are_kept_with_the_trials_and_cost_none_of_the_budget(probing: Any, check_sound: Any) -> None:
    worker = probing.worker()
    worker.prepare()
    worker.run()
    check_sound(probing.store, "tiny", TRIALS)
    kept = attributes(probing)
    assert kept
    probes = [probe for each in kept for probe in each["probes"]]
    assert {8, 16} <= {probe["images"] for probe in probes} <= {8, 16, 32}  # four looks where one promises enough
    assert all(probe["images"] == 8 * probe["looks"] for probe in probes)
    assert [each["chosen_on"] for each in kept] == sorted(each["chosen_on"] for each in kept)
    looks = [(probing.evaluator.key(Schedule.from_dict(probe["schedule"])), probe["looks"]) for probe in probes]
    assert len(set(looks)) == len(looks) > len(kept)


def test_a_trial_that_is_taken_over_is_still_tested_on_later_images_alone(
    probing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for by one worker, which dies, and measured by another, which has not probed it."""
    worker = probing.worker()
    worker.prepare()
    worker.run(at_most=TRIALS - 2)
    slot, proposal = probing.ask(worker.bridge)
    chosen_on = proposal.chosen_on
    assert chosen_on >= 8
    probing.store.tasks.free(slot)
    given: list[int] = []
    measure = probing.evaluator.measure
    monkeypatch.setattr(probing.evaluator, "measure", lambda *all: given.append(all[-1]) or measure(*all))
    probing.evaluator.release()
    probing.worker().run(at_most=1)
    assert given == [chosen_on]


def test_one_that_fails_is_no_trial_that_fails(
    probing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(probing.evaluator, "probe", fail)
    worker = probing.worker()
    worker.prepare()
    worker.run()
    progress = probing.store.progress(probing.record.id)
    assert (progress.done, progress.failed) == (TRIALS, 0)
    assert not probing.store.tasks.attempts(probing.record.id)
    assert "a partial evaluation of " in caplog.text
    assert not attributes(probing)


def test_takes_no_longer_than_a_trial_may(probing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at between two batches; what hangs is ended from outside, as a trial is."""
    worker = probing.worker()
    worker.prepare()
    worker.run(at_most=TRIALS - 2)
    seen: list[float | None] = []

    def slow(schedule: Schedule, looks: int, dense: Any, others: Any, check: Callable[[], None]) -> Any:
        seen.append(worker._measuring.deadline)
        worker._measuring.deadline = 0.0
        with pytest.raises(TrialFailedError, match="took longer"):
            check()
        check()

    monkeypatch.setattr(probing.evaluator, "probe", slow)
    worker.run(at_most=1)
    assert seen
    assert None not in seen
    assert worker._measuring.deadline is None


@pytest.mark.parametrize(
    "without", [{"data": {"search_images": 24}}, {"sampler": {"name": "auto", "probes": 0}}], ids=str
)
def test_a_split_of_few_batches_has_none_nor_a_study_that_wants_none(
    start: Start, tiny_spec: Spec, without: dict[str, Any]
) -> None:
    sections = {"data": {"search_images": 64}, "sampler": {"name": "auto"}, **without}
    started = start(tiny_spec(budget={"trials": TRIALS}, **sections))
    worker = started.worker()
    worker.prepare()
    worker.run()
    assert not attributes(started)
