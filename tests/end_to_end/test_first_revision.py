"""A store and exported schedules of the last release without revisions go on under today's code as what they were.

How they were made: tests/fixtures/revision_1/make.py.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED
from search.config.space import to_params
from search.config.spec import StudySpec, make_spec, read_spec
from search.errors import InputError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.launch import launch
from search.storage.store import Store
from search.types import Evaluation

pytestmark = pytest.mark.usefixtures("brief", "one_at_a_time")

OLD = Path(__file__).parents[1] / "fixtures" / "revision_1"
DONE, TRIALS = 9, 12  # of the stopped study
DEPTH = 12


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def old_url(tmp_path: Path) -> str:
    """A copy of the old store."""
    with sqlite3.connect(tmp_path / "old.db") as made:
        made.executescript((OLD / "store.sql").read_text(encoding="utf-8"))
    made.close()
    return f"sqlite:///{tmp_path}/old.db"


@pytest.fixture
def old(old_url: str) -> Iterator[Store]:
    opened = Store.open(old_url)
    yield opened
    opened.close()


def rows(store: Store, name: str) -> dict[str, Evaluation]:
    return {e.search.key: e for e in store.evaluations(store.study(name).id)}


def stopped_file(**space: Any) -> StudySpec:
    """The file that began the study, with another section `space`."""
    document = yaml.safe_load((OLD / "stopped.yaml").read_text(encoding="utf-8"))
    return make_spec({**{k: v for k, v in document.items() if k != "space"}, **({"space": space} if space else {})}, "")


class TestRead:
    def test_study_is_of_the_first_revision(self, old: Store) -> None:
        for name in ("finished", "stopped"):
            space = old.study(name).spec.space
            assert (space.revision, space.is_mixed, space.exact_savings) == (1, False, False)

    @pytest.mark.parametrize("name", ["finished", "stopped"])
    def test_every_key_is_what_it_was(self, old: Store, name: str) -> None:
        found = rows(old, name)
        assert len(found) == {"finished": 6, "stopped": DONE}[name]
        for key, evaluation in found.items():
            schedule = evaluation.search.schedule
            assert schedule.key == key
            assert not schedule.exact_savings
            again = type(schedule).from_dict(schedule.to_dict())  # as today's code writes it
            assert (again, again.key) == (schedule, key)

    def test_dense_model_is_the_untouched_one(self, old: Store) -> None:
        assert old.evaluation(old.study("finished").id, UNTOUCHED.key).trial == 0

    def test_fronts_are_what_they_were(self, old: Store) -> None:
        front = old.front(old.study("finished").id)
        assert front.points
        assert {point.search.key for point in front.points} <= rows(old, "finished").keys()


class TestLaunch:
    def test_of_a_finished_study_leaves_it_alone(self, old: Store, old_url: str) -> None:
        before = rows(old, "finished")
        spec = read_spec(str(OLD / "finished.yaml"))
        assert launch(spec, old_url, lambda progress: None).state == "done"
        assert rows(old, "finished") == before

    @pytest.mark.slow
    def test_of_a_stopped_study_goes_on_as_it_began(
        self, old: Store, old_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, asked = rows(old, "stopped"), list[str]()
        measure = ScheduleEvaluator.measure

        def spy(evaluator: ScheduleEvaluator, schedule: Any, *arguments: Any, **options: Any) -> Any:
            asked.append(evaluator.key(schedule))
            return measure(evaluator, schedule, *arguments, **options)

        monkeypatch.setattr(ScheduleEvaluator, "measure", spy)
        known = self.queue_one_of_before(old)
        assert launch(read_spec(str(OLD / "stopped.yaml")), old_url, lambda progress: None).state == "done"
        after = rows(old, "stopped")
        assert {key: after[key].search for key in before} == {key: each.search for key, each in before.items()}
        assert not set(asked) & set(before)  # the one that was queued, too, is taken over
        assert len(old.tasks.slots(old.study("stopped").id)) == TRIALS
        new = [after[key].search.schedule for key in after.keys() - before.keys()]
        assert len(new) == TRIALS - DONE - 1
        assert known in before
        for schedule in new:
            (method,) = schedule.methods
            assert not schedule.exact_savings
            frozen = METHODS[method].fill_options(method, {}, revision=1)
            listed = {"metric", "similarity"} if method == "zero-tprune" else set[str]()
            assert {n for n, v in schedule.options.items() if v != frozen[n]} <= listed
        space = old.study("stopped").spec.space
        assert (space.revision, space.mixed, space.exact_savings) == (1, False, False)

    @staticmethod
    def queue_one_of_before(store: Store) -> str:
        """The next trial has the parameters of one that was measured; its key."""
        space = store.study("stopped").spec.space
        found = next(e.search for e in rows(store, "stopped").values() if e.search.schedule.method == "tome")
        store.trials.queue(store.study("stopped").id, to_params(found.schedule, space, DEPTH), {}, again=True)
        return found.key

    @pytest.mark.parametrize(
        "space",
        [
            {},
            {"max_stages": 3},  # without methods: today's default is all of them, mixed
            {"methods": ["zero-tprune", "tome"]},
            {"options": {"zero-tprune": {"similarity": [True, False], "metric": ["cosine", "dot"]}}},
        ],
    )
    def test_by_a_file_that_leaves_something_out_goes_on(self, old: Store, space: dict[str, Any]) -> None:
        wanted = stopped_file(**space)
        assert old.add_study(wanted).id == old.study("stopped").id

    @pytest.mark.parametrize(
        ("space", "difference"),
        [
            ({"methods": ["zero-tprune"]}, r"space\.methods: \['zero-tprune', 'tome'\] -> \['zero-tprune'\]"),
            ({"max_stages": 12}, r"space\.max_stages: 3 -> 12"),
            ({"mixed": True}, r"space\.mixed: False -> True"),
            ({"exact_savings": True}, r"space\.exact_savings: False -> True"),
            ({"options": {}}, r"space\.options\.zero-tprune\.similarity: \[True, False\] -> null"),
        ],
    )
    def test_by_a_file_that_says_otherwise_is_refused(
        self, old: Store, old_url: str, space: dict[str, Any], difference: str
    ) -> None:
        before = rows(old, "stopped")
        with pytest.raises(InputError, match=rf"exists with another spec \(.*{difference}"):
            launch(stopped_file(**space), old_url, lambda progress: None)
        assert rows(old, "stopped") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero-tprune.yaml", "tome.yaml"])
def test_exported_schedule_measures_what_it_did(ztp: Callable[..., Any], name: str) -> None:
    """`drop`, `similarity`, `halves` and others have other defaults now; its options are written as none."""
    shutil.copy(OLD / name, name)
    recorded = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    assert recorded["schedule"]["options"] == {}
    ran = ztp("evaluate", name, "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["reproduced"] is True
    assert document["flops"] == recorded["metrics"]["flops"]
    assert document["accuracy"] == recorded["metrics"]["search"]["accuracy"]
