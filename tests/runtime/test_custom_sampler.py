"""Studies with a sampler of the user's own: what it keeps, what it sees of other workers, how its errors end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.errors import InputError, SearchError
from search.runtime.feasibility import check_here
from search.runtime.launch import launch
from search.runtime.worker_entrypoints import join
from search.samplers.custom import ALLOWED
from tests.samplers import own_samplers as own

Start = Callable[..., Any]
Spec = Callable[..., Any]
Oracle = Callable[..., Any]
SPACE = {"keep": [0.1, 1.0], "max_stages": 1}


def section(kind: type, **options: Any) -> dict[str, Any]:
    return {"name": "custom", "class": own.class_path(kind), "options": options}


def kept(started: Any) -> list[float]:
    """keep_0 of each trial, in order."""
    return [trial.params["keep_0"] for trial in started.trials()]


def test_keeps_its_state_over_trials_and_launches(start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
    sweep = section(own.Sweep, step=0.125)
    started = start(tiny_spec(sampler=sweep, space=SPACE, budget={"trials": 6}))
    oracle(started.evaluator)
    worker = started.worker()
    worker.run(at_most=3)
    assert kept(started) == [0.875, 0.75, 0.625]
    sampler = worker.bridge.study.sampler
    assert isinstance(sampler, own.Sweep)
    worker.run(at_most=1)  # only now it learns of the third: a worker reads what is new before it proposes
    ended = started.trials()[:3]
    assert sampler.told == [(trial.state, trial.values) for trial in ended]
    started.worker().run()  # a new sampler, which has been told nothing, finds the trials
    assert kept(started) == [0.875, 0.75, 0.625, 0.5, 0.375, 0.25]


def test_attributes_that_it_keeps_are_stored_with_its_proposals(start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
    """NSGA-II by its import path numbers its generations there."""
    started = start(tiny_spec(sampler=own.section("custom"), budget={"trials": 14}, racing={"alpha": 0.0}))
    oracle(started.evaluator)
    for _ in range(2):
        started.worker().run(at_most=7)
    trials = started.store.trials.find_all(started.record.id)
    generations = [next(iter(trial.system_attributes.values())) for trial in trials]
    assert generations == sorted(generations)
    assert generations[0] == 0
    assert generations[-1] >= 2


def test_two_workers_do_not_propose_the_same(start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
    """Each sees what the other has under way, and hears how it ended."""
    started = start(tiny_spec(sampler=section(own.Sweep, step=0.0625), space=SPACE, budget={"trials": 12}))
    oracle(started.evaluator)
    bridges = [started.worker(number).bridge for number in (0, 1)]
    for _ in range(3):
        for bridge in bridges:
            started.ask(bridge)
    assert kept(started) == [1 - 0.0625 * count for count in range(1, 7)]
    running = [trial.params["keep_0"] for trial in bridges[0].study.get_trials(states=(TrialState.RUNNING,))]
    assert running == [1 - 0.0625 * count for count in range(1, 6)]  # the sixth came after it had looked


@pytest.mark.slow
def test_processes_of_a_launch_make_it_too(
    start: Start, tiny_spec: Spec, check_sound: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a module of the user's own, outside of the project."""
    (tmp_path / "mine.py").write_text(Path(own.__file__).read_text())
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.syspath_prepend(tmp_path)
    sampler = {"name": "custom", "class": "mine:Sweep", "options": {"step": 0.01}}
    started = start(tiny_spec(sampler=sampler, space=SPACE, budget={"trials": 24}, runtime={"batch_size": 4}))
    store = started.store
    assert launch(started.evaluator.spec, store.url, lambda progress: None, workers=2).state == "done"
    check_sound(store, "tiny", 24)
    workers = {slot.worker for slot in store.tasks.slots(started.record.id)}
    assert len(workers) >= 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(own.Raising, "ZeroDivisionError: no gradient"), (own.Outside, "ValueError: .*1.5.*")],
)
def test_what_it_does_wrong_ends_the_study_by_its_name(
    start: Start, tiny_spec: Spec, oracle: Oracle, kind: type, reason: str
) -> None:
    started = start(tiny_spec(sampler=section(kind), space=SPACE))
    oracle(started.evaluator)
    with pytest.raises(SearchError, match=rf"^sampler\.class {own.class_path(kind)} failed: {reason}"):
        started.worker().run()
    assert started.trials() == []
    assert started.store.tasks.slots(started.record.id) == []  # handed back


def test_a_class_that_is_not_here_is_refused_before_anything_is_written(tiny_spec: Spec, tmp_path: Path) -> None:
    spec = tiny_spec(sampler={"class": "no_such:Sampler", "name": "custom"})
    with pytest.raises(InputError, match=r"^tiny: sampler\.class must be a class that can be imported here"):
        launch(spec, f"sqlite:///{tmp_path}/none.db", lambda progress: None)
    assert not (tmp_path / "none.db").exists()


def test_workers_keep_to_the_list_of_their_environment(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = start(tiny_spec(sampler=section(own.Sweep, step=0.1)))
    monkeypatch.setenv(ALLOWED, "")
    with pytest.raises(InputError, match=r"^tiny: sampler\.class must be a class that the operator allows"):
        join("tiny", started.store.url)
    with pytest.raises(InputError, match=r"^tiny: sampler\.class must be a class that the operator allows"):
        launch(started.evaluator.spec, f"sqlite:///{tmp_path}/none.db", lambda progress: None)
    monkeypatch.setenv(ALLOWED, own.class_path(own.Sweep))
    check_here(started.record.spec)
