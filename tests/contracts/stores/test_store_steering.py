"""Orders about studies, on every database: what each does to a study, and where it is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from search.attribute_keys import STUDY_ID
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import InputError, SpecConflictError, StudyStateError, UnknownStudyError
from search.storage import steering
from search.storage.optuna_storage import copy_optuna_study
from search.storage.steering import Steering
from search.storage.store import Store


@pytest.fixture
def orders(opened: Store) -> Steering:
    return Steering(opened)


class TestStates:
    def test_orders_that_are_followed_already_are_no_errors(self, orders: Steering, record: StudyRecord) -> None:
        given = ("pause", "pause", "resume", "resume", "stop", "stop", "resume")
        states = [getattr(orders, order)("shirts").state for order in given]
        assert states == ["paused", "paused", "created", "created", "stopped", "stopped", "created"]

    def test_a_study_whose_worker_is_there_goes_on_at_once(
        self, opened: Store, orders: Steering, record: StudyRecord
    ) -> None:
        opened.trials.reserve(record.id, "a worker", 12, lease_s=60.0)
        orders.pause("shirts")
        assert orders.resume("shirts").state == "running"

    @pytest.mark.parametrize("order", ["pause", "resume", "stop"])
    def test_what_is_done_stays_done(self, opened: Store, orders: Steering, record: StudyRecord, order: str) -> None:
        opened.set_state(record.id, "done")
        with pytest.raises(StudyStateError, match=r"shirts: state must be .* to become \w+, got done"):
            getattr(orders, order)("shirts")

    @pytest.mark.parametrize("order", ["pause", "resume", "stop", "delete"])
    def test_an_unknown_study_is_named(self, orders: Steering, record: StudyRecord, order: str) -> None:
        with pytest.raises(UnknownStudyError, match=r"did you mean shirts\?"):
            getattr(orders, order)("shirt")


class TestDelete:
    @pytest.mark.parametrize("at_work", ["trial", "preparation", "state"])
    def test_is_refused_while_somebody_works(
        self, opened: Store, orders: Steering, record: StudyRecord, at_work: str
    ) -> None:
        if at_work == "trial":
            opened.trials.reserve(record.id, "a worker", 12)
        elif at_work == "preparation":
            opened.tasks.claim(record.id, ["prepare"], "a worker", "lease", 60.0)
        else:
            opened.set_state(record.id, "running")
        found = "running" if at_work == "state" else "created, a worker"
        with pytest.raises(StudyStateError, match=f"shirts: must not be at work, got {found}; stop it, then delete it"):
            orders.delete("shirts")
        assert opened.study("shirts").id == record.id

    def test_a_dead_worker_is_no_hindrance(self, opened: Store, orders: Steering, record: StudyRecord) -> None:
        opened.trials.reserve(record.id, "dead", 12, lease_s=-1.0)
        orders.delete("shirts")
        assert opened.studies() == []

    def test_by_force_it_is_stopped_first(self, opened: Store, orders: Steering, record: StudyRecord) -> None:
        slot = opened.trials.reserve(record.id, "a worker", 12)
        assert slot is not None
        opened.set_state(record.id, "running")
        seen: list[str] = []

        def work() -> None:
            while not seen or seen[-1] != "stopped":
                seen.append(opened.state(record.id))
                time.sleep(0.01)
            opened.tasks.free(slot)

        worker = threading.Thread(target=work)
        worker.start()
        orders.delete("shirts", force=True)
        worker.join()
        assert (seen[-1], opened.studies()) == ("stopped", [])

    def test_by_force_workers_that_go_on_are_waited_for(
        self, opened: Store, orders: Steering, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(steering, "FORCE_WAIT_S", 0.1)
        opened.trials.reserve(record.id, "a worker", 12)
        with pytest.raises(StudyStateError, match=r"got stopped, a worker; .* once its workers have ended"):
            orders.delete("shirts", force=True)
        assert opened.state(record.id) == "stopped"


def mirrored(store: Store, name: str) -> list[Any]:
    study = optuna.load_study(study_name=name, storage=store.optuna_storage(), sampler=optuna.samplers.RandomSampler())
    assert study.metric_names == ["accuracy", "throughput"]
    return [(trial.number, trial.state, trial.values, trial.params, trial.user_attrs) for trial in study.trials]


def add_mirror(store: Store, study_id: int, name: str = "shirts") -> None:
    """A mirror of two trials, as of a study that was searched."""
    study = optuna.load_study(study_name=name, storage=store.optuna_storage())
    for number in range(2):
        made = optuna.trial.create_trial(
            values=[0.5 + number, 2.0],
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
            user_attrs={"ztp_trial": number},
            system_attrs={STUDY_ID: study_id},
        )
        study.add_trial(made)


class TestRename:
    def test_everything_has_the_new_name(
        self,
        opened: Store,
        orders: Steering,
        record: StudyRecord,
        asked: StudySpec,
        run: Callable[..., Any],
        measured: Callable[..., Any],
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        add_mirror(opened, record.id)
        front, trials = opened.front(record.id), mirrored(opened, "shirts")
        renamed = orders.rename("shirts", "socks")
        assert (renamed.id, renamed.name, renamed.spec.name) == (record.id, "socks", "socks")
        assert opened.studies() == [renamed]
        assert opened.front(renamed.id) == front
        assert mirrored(opened, "socks") == trials
        assert [study.study_name for study in opened.optuna_storage().get_all_studies()] == ["socks"]
        assert opened.add_study(make_spec({**asked.to_dict(), "name": "socks"}, "test")).id == record.id
        assert opened.add_study(asked).id != record.id  # the old name is free
        assert orders.rename("socks", "socks") == renamed

    def test_one_that_was_killed_half_way_is_made_again(
        self, opened: Store, orders: Steering, record: StudyRecord, asked: StudySpec
    ) -> None:
        add_mirror(opened, record.id)
        assert copy_optuna_study(opened.optuna_storage(), "shirts", "socks")  # and not a step further
        trials = mirrored(opened, "shirts")
        orders.rename("shirts", "socks")
        assert mirrored(opened, "socks") == trials

        assert copy_optuna_study(opened.optuna_storage(), "socks", "shirts")  # as if the last step were missing
        assert opened.add_study(asked).id != record.id

    def test_names_that_are_taken_are_refused(self, opened: Store, orders: Steering, record: StudyRecord) -> None:
        opened.add_study(make_spec({"name": "ours", "backbone": {"name": "demo"}}, "test"))
        optuna.create_study(storage=opened.optuna_storage(), study_name="foreign")
        for name in ("ours", "foreign"):
            with pytest.raises(SpecConflictError, match=f"study {name} exists at .*; choose another name"):
                orders.rename("shirts", name)
        names = {study.study_name for study in opened.optuna_storage().get_all_studies()}
        assert names == {"shirts", "ours", "foreign"}
        assert opened.study("shirts") == record

    @pytest.mark.parametrize("name", ["", "a/b", "-x", "ztp\n", "\x00", "x" * 101])
    def test_what_cannot_be_a_name_is_refused(self, orders: Steering, record: StudyRecord, name: str) -> None:
        with pytest.raises(InputError, match="rename shirts: name must"):
            orders.rename("shirts", name)

    def test_a_study_at_work_is_refused(self, opened: Store, orders: Steering, record: StudyRecord) -> None:
        opened.trials.reserve(record.id, "a worker", 12)
        with pytest.raises(StudyStateError, match="stop it, then rename it"):
            orders.rename("shirts", "socks")
