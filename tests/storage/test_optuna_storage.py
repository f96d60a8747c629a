"""Optuna's storage beside ours: quiet, created once, and used by samplers as a study needs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from search.config.space import distributions, to_params, to_schedule
from search.config.spec import StudySpec, make_spec
from search.config.starting_schedules import baselines
from search.samplers.registry import make_sampler
from search.samplers.sampler_context import SamplerContext
from search.storage.store import Store


@pytest.fixture
def opened(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


@pytest.fixture
def asked() -> StudySpec:
    return make_spec({"name": "shirts", "backbone": {"name": "demo"}, "space": {"max_stages": 2}}, "test")


def load(store: Store, spec: StudySpec, worker: int = 0) -> optuna.Study:
    problem = SamplerContext(
        spec.space, 12, 196, speedup=lambda s: 1.0, within_limits=lambda s: True, result=lambda t: None
    )
    sampler = make_sampler(spec.sampler, problem, 0, worker)
    return optuna.load_study(study_name=spec.name, storage=store.optuna_storage(), sampler=sampler)


def test_is_one_object_for_all_threads(opened: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({id(storage) for storage in pool.map(lambda _: opened.optuna_storage(), range(8))}) == 1


def test_says_nothing(opened: Store, asked: StudySpec, capfd: pytest.CaptureFixture[str]) -> None:
    opened.add_study(asked)
    study = load(opened, asked)
    study.tell(study.ask(distributions(asked.space, 12)), [0.5, 1.0])
    assert capfd.readouterr() == ("", "")


def test_baselines_come_back_as_the_first_trials(opened: Store, asked: StudySpec) -> None:
    opened.add_study(asked)
    study, wanted = load(opened, asked), [schedule for _, schedule in baselines(asked.space, 12)]
    for schedule in wanted:
        study.enqueue_trial(to_params(schedule, asked.space, 12))
    box = distributions(asked.space, 12)
    assert [to_schedule(study.ask(box).params, asked.space, 12) for _ in wanted] == wanted


def test_threads_get_numbers_of_their_own(opened: Store, asked: StudySpec) -> None:
    opened.add_study(asked)
    box = distributions(asked.space, 12)

    def work(worker: int) -> list[int]:
        study, numbers = load(opened, asked, worker), []
        for _ in range(5):
            trial = study.ask(box)
            study.tell(trial, [0.5, 1.0])
            numbers.append(trial.number)
        opened.optuna_storage().remove_session()
        return numbers

    with ThreadPoolExecutor(3) as pool:
        numbers = sorted(number for found in pool.map(work, range(3)) for number in found)
    assert numbers == list(range(15))
    assert [trial.number for trial in load(opened, asked).trials] == list(range(15))


def test_adding_a_study_again_writes_nothing_to_optuna(
    opened: Store, asked: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.add_study(asked)
    storage = opened.optuna_storage()
    monkeypatch.setattr(storage, "set_study_system_attr", None)  # calling it would fail
    opened.add_study(asked)
    assert load(opened, asked).metric_names == ["accuracy", "throughput"]
