"""Whole studies, real to the last number: launched, killed, resumed, helped by other processes, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from pruning.errors import ScheduleError
from search.errors import InputError, SearchError
from search.evaluation import calibrator
from search.evaluation.latency_profile import LatencyProfile
from search.reporting.export import to_config
from search.runtime import local_workers
from search.runtime.launch import launch
from search.runtime.worker_entrypoints import serve
from search.storage.store import Store
from search.types import Progress
from tests.runtime.soundness import check_mirrored

Start = Callable[..., Any]
Spec = Callable[..., Any]


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/launch.db"


@pytest.mark.slow
def test_from_spec_to_confirmed_front(url: str, tiny_spec: Spec, check_sound: Callable[..., None]) -> None:
    seen: list[Progress] = []
    record = launch(tiny_spec(runtime={"batch_size": 8}), url, seen.append)
    assert (record.state, record.name) == ("done", "tiny")
    assert [p.done for p in seen if p.state == "running"] == [0, 1, 2, 3, 4]
    store = Store.open(url, create=False)
    check_sound(store, "tiny", 4)
    check_mirrored(store, "tiny")
    front = store.front(record.id)
    assert front is not None
    assert front.dense is not None
    assert store.tasks.slots(record.id)[0].key == front.dense.search.key  # dense goes first
    for evaluation in {*front.points, front.dense}:
        assert evaluation.confirm is not None
        assert evaluation.confirm.throughput.how == "measured"
        assert evaluation.confirm.key == evaluation.search.key
    known = record.provenance
    assert {"hardware", "dtype", "dtype_reason", "versions", "fingerprint", "images", "prediction_error"} <= set(known)
    assert known["dtype"] == "float32"
    assert known["versions"]["optuna"].startswith("5")
    # a second launch finds it done and changes nothing
    assert launch(tiny_spec(runtime={"batch_size": 8}), url, seen.append) == record
    assert len(store.front_history(record.id)) == front.version
    store.close()


class TestEnded:
    def test_by_the_keyboard_and_resumed(self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None]) -> None:
        started = start(tiny_spec(budget={"trials": 3}))

        def interrupt(progress: Progress) -> None:
            if progress.done == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            launch(started.evaluator.spec, started.store.url, interrupt)
        progress = started.store.progress(started.record.id)
        assert (progress.state, progress.note, progress.done) == ("stopped", "interrupted", 1)
        assert not started.store.tasks.slots(started.record.id, "reserved")
        assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"
        check_sound(started.store, "tiny", 3)

    def test_by_the_time_budget(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 500, "time": "1s"}))
        assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"
        progress = started.store.progress(started.record.id)
        assert 1 <= progress.done < 500
        assert progress.note == f"time budget used up after {progress.done} of 500 trials"
        assert progress.confirmed == progress.front_size > 0

    def test_by_a_failure_which_is_noted(self, start: Start, tiny_spec: Spec, monkeypatch: Any) -> None:
        from search.evaluation.schedule_evaluator import ScheduleEvaluator

        def fail(self: ScheduleEvaluator, *arguments: Any) -> None:
            raise RuntimeError("out of memory")

        started = start(tiny_spec())
        monkeypatch.setattr(ScheduleEvaluator, "measure", fail)
        rule = (
            "study tiny: the dense model, with which all is compared, cannot be measured: RuntimeError: out of memory"
        )
        with pytest.raises(SearchError, match=rule):
            launch(started.evaluator.spec, started.store.url, ignore)
        progress = started.store.progress(started.record.id)
        assert (progress.state, progress.note) == ("stopped", f"SearchError: {rule}")

    def test_waits_for_a_trial_of_a_worker_elsewhere(
        self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None]
    ) -> None:
        started = start(tiny_spec(budget={"trials": 2}))
        slot = started.store.trials.reserve(started.record.id, "elsewhere", 2)
        waited: list[int] = []

        def observe(progress: Progress) -> None:
            waited.append(progress.done)
            if waited.count(1) == 2:  # the second time it says so, it has nothing left to do but wait
                started.store.tasks.free(slot)

        launch(started.evaluator.spec, started.store.url, observe)
        check_sound(started.store, "tiny", 2)


class TestMore:
    def test_trials_for_a_study_that_is_done(
        self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        started = start(tiny_spec(budget={"trials": 3}))
        store, study_id = started.store, started.record.id
        launch(started.evaluator.spec, store.url, ignore)
        first = {e.trial: e for e in store.evaluations(study_id)}
        states: list[str] = []
        more = launch(tiny_spec(budget={"trials": 6}), store.url, lambda progress: states.append(progress.state))
        assert (more.id, more.state, set(states)) == (study_id, "done", {"running", "confirming", "done"})
        check_sound(store, "tiny", 6)
        check_mirrored(store, "tiny")
        front = store.front(study_id)
        assert front is not None
        assert all(point.confirm for point in front.points)
        after = {e.trial: e for e in store.evaluations(study_id)}
        for trial, before in first.items():  # what was measured and confirmed stays as it was
            assert after[trial].search == before.search
            if before.confirm is not None:  # but for its timing, if the clock was disturbed
                confirm = after[trial].confirm
                assert confirm is not None
                assert replace(confirm, throughput=before.confirm.throughput) == before.confirm
        # who still has the old budget neither takes anything away, nor adds to it
        assert launch(started.evaluator.spec, store.url, ignore).state == "done"
        assert store.progress(study_id).total == 6
        assert "study tiny keeps budget.trials: 6, not 3" in caplog.text
        check_sound(store, "tiny", 6)

    def test_that_cannot_continue_a_study_tells_what_does(
        self, start: Start, tiny_spec: Spec, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It ended by its trials and knows no limit of time: a limit of time is no larger budget."""
        started = start(tiny_spec(budget={"trials": 3}))
        launch(started.evaluator.spec, started.store.url, ignore)
        launch(tiny_spec(budget={"trials": 3, "time": "2h"}), started.store.url, ignore)
        assert "study tiny keeps budget.time: null, not 2h: a budget may grow alone" in caplog.text
        assert "ztp stop" not in caplog.text
        told = "ztp: study tiny is done: all 3 trials are done; ztp launch with --trials above 3 continues it"
        assert told in capsys.readouterr().err

    def test_trials_while_the_front_is_confirmed(
        self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None]
    ) -> None:
        """The launch that had the old budget goes back to its search."""
        started = start(tiny_spec(budget={"trials": 3}))

        def raise_budget(progress: Progress) -> None:
            if progress.state == "confirming" and progress.total == 3:
                started.store.add_study(tiny_spec(budget={"trials": 5}))

        launch(started.evaluator.spec, started.store.url, raise_budget)
        check_sound(started.store, "tiny", 5)
        progress = started.store.progress(started.record.id)
        assert (progress.state, progress.note, progress.confirmed) == ("done", "", progress.front_size)

    def test_trials_that_a_free_worker_takes(
        self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None]
    ) -> None:
        """As of a study that is posted again to a service."""
        started = start(tiny_spec(budget={"trials": 2}))
        launch(started.evaluator.spec, started.store.url, ignore)
        record = started.store.add_study(tiny_spec(budget={"trials": 4}))
        assert record.state == "created"
        assert serve(started.store, record, 7)
        assert started.store.state(record.id) == "done"
        check_sound(started.store, "tiny", 4)


class TestPatience:
    def test_ends_the_search_and_says_so(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 500, "patience": 3}))
        assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"
        progress = started.store.progress(started.record.id)
        assert progress.stagnant >= 3
        assert progress.done < 500
        ending = f"the front has not grown for {progress.stagnant} trials, after {progress.done} of 500"
        assert progress.note == ending
        assert progress.confirmed == progress.front_size > 0
        assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"
        assert started.store.progress(started.record.id).done == progress.done


class TestRefused:
    def test_an_unreachable_speedup_before_anything_is_written(
        self, url: str, tiny_spec: Spec, profile: LatencyProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(calibrator, "measure_profile", lambda *given: profile)
        with pytest.raises(InputError, match=r"tiny: budget\.min_speedup must be at most \d\.\d+, .* got 50; lower it"):
            launch(tiny_spec(budget={"min_speedup": 50.0}), url, ignore)
        assert list(tmp_path.iterdir()) == []

    def test_no_speedup_of_a_study_that_has_its_profile(
        self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(calibrator, "measure_profile", lambda *given: pytest.fail("taken a second time"))
        started = start(tiny_spec(budget={"trials": 1, "min_speedup": 1.2}))
        assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"

    def test_another_spec_with_the_difference(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        with pytest.raises(InputError, match=r"exists with another spec \(budget\.max_gflops: null -> 0\.3\), and its"):
            launch(tiny_spec(budget={"trials": 5, "max_gflops": 0.3}), started.store.url, ignore)
        assert not started.store.tasks.slots(started.record.id)

    @pytest.mark.parametrize(
        ("sections", "rule"),
        [
            ({"budget": {"max_gflops": 0.001}}, r"budget\.max_gflops must be at least .*, got 0\.001; raise it"),
            ({"space": {"blocks": [0, 11], "max_stages": 3}}, r"space\.blocks must end at 10 or below .* 12 blocks"),
            ({"backbone": {"name": "nonsense"}, "data": {"source": "demo"}}, r"backbone\.name must be a timm model"),
        ],
    )
    def test_before_anything_is_written(
        self, tmp_path: Path, url: str, tiny_spec: Spec, sections: dict[str, Any], rule: str
    ) -> None:
        with pytest.raises(Exception, match=rule):
            launch(tiny_spec(**sections), url, ignore)
        assert not list(tmp_path.iterdir())

    def test_a_method_that_cannot_prune_the_backbone(
        self, tmp_path: Path, url: str, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pruning.architectures.vit import PlainViT

        described = PlainViT.describe
        monkeypatch.setattr(PlainViT, "describe", lambda self: replace(described(self), class_token=False))
        with pytest.raises(ScheduleError, match="must not need a class token"):
            launch(tiny_spec(space={"methods": ["cls-attention"]}), url, ignore)
        assert not list(tmp_path.iterdir())

    def test_a_corrupt_image_of_the_confirm_split(
        self, tmp_path: Path, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from search.evaluation.data.splits import Images

        def corrupt(self: Images) -> None:
            raise InputError("data.path", "image x cannot be decoded")

        monkeypatch.setattr(Images, "confirm", corrupt)
        with pytest.raises(InputError, match="image x cannot be decoded"):
            launch(tiny_spec(), f"sqlite:///{tmp_path}/launch.db", ignore)
        assert not list(tmp_path.iterdir())

    def test_weights_that_changed_since(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        facts = dict(started.record.provenance["facts"]) | {"weights": "0" * 16}
        started.store.set_provenance(started.record.id, {"facts": facts})
        with pytest.raises(SearchError, match="tiny: weights must be those it was launched with"):
            launch(started.evaluator.spec, started.store.url, ignore)


def launch_apart(spec: Any, url: str) -> tuple[int, IO[str]]:
    """A launch in a process of its own, and what it says: a line after each trial, with how many are done.

    Forked, for a new interpreter takes seconds to load torch. Nobody may have the database open meanwhile: SQLite's
    locks are not inherited.
    """
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            launch(spec, url, lambda progress: os.write(said, b"%d\n" % progress.done))
        finally:
            os._exit(1)
    os.close(said)
    return child, os.fdopen(heard)


@pytest.mark.slow
@pytest.mark.parametrize("delays", [(0.0, 0.05, 0.3, 0.15)])
def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    start: Start, tiny_spec: Spec, check_sound: Any, delays: tuple[float, ...]
) -> None:
    """Each process is killed a moment after it finished a trial: asking, measuring, writing, whatever it is at."""
    total = 8
    changes = {"budget": {"trials": total}, "racing": {"tolerance": 0.5}}  # few images: luck may be large
    started = start(tiny_spec(**changes))
    done = 0
    for delay in delays:
        started.store.close()
        child, said = launch_apart(started.evaluator.spec, started.store.url)
        with said:
            lines = [said.readline() for _ in range(2)]  # when it starts, and after its first trial
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert int(lines[0]) >= done
        done = started.store.progress(started.record.id).done
        assert done >= int(lines[1])
    assert launch(started.evaluator.spec, started.store.url, ignore).state == "done"
    check_sound(started.store, "tiny", total)
    assert started.store.tasks.slots(started.record.id)[0].trial == 0
    assert started.store.progress(started.record.id).stopped > 0  # racing was on, and had something to stop


@pytest.mark.slow
def test_two_workers_spend_exactly_the_budget(start: Start, tiny_spec: Spec, check_sound: Any) -> None:
    started = start(tiny_spec(budget={"trials": 5}, runtime={"batch_size": 4}))
    seen: list[int] = []
    record = launch(started.evaluator.spec, started.store.url, lambda progress: seen.append(progress.done), workers=2)
    assert record.state == "done"
    check_sound(started.store, "tiny", 5)
    assert seen == sorted(seen)
    assert started.store.tasks.slots(record.id)[0].trial == 0
    assert started.store.progress(record.id).seconds > 0


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "worker" in process.cmdline()
    except psutil.NoSuchProcess:  # it has ended, and may still be a zombie
        return False


@pytest.mark.slow
def test_workers_that_are_killed_are_started_again(start: Start, tiny_spec: Spec, check_sound: Any) -> None:
    """Both at once: nobody but the engine is left to go on."""
    started = start(tiny_spec(budget={"trials": 6}, runtime={"batch_size": 4}))
    killed: list[int] = []

    def kill_both(progress: Progress) -> None:
        children = [each for each in psutil.Process().children() if _is_worker(each)]
        if progress.done >= 1 and not killed and len(children) == 2:
            for child in children:
                child.kill()
                killed.append(child.pid)

    assert launch(started.evaluator.spec, started.store.url, kill_both, workers=2).state == "done"
    assert len(killed) == 2
    check_sound(started.store, "tiny", 6)
    assert {slot.worker.split("-")[-2] for slot in started.store.tasks.slots(started.record.id)} - set(map(str, killed))


class TestLocalEngine:
    """Workers are real processes; what they run is short."""

    def run(self, monkeypatch: pytest.MonkeyPatch, code: str, watch: Callable[[], None] = lambda: None) -> None:
        popen = subprocess.Popen

        def start(command: list[str], **options: Any) -> Any:
            return popen([command[0], "-c", code, *command[1:]], **options)

        monkeypatch.setattr(local_workers, "POLL_S", 0.05)
        monkeypatch.setattr(local_workers, "CALM_S", 0.2)
        monkeypatch.setattr(local_workers.subprocess, "Popen", start)
        local_workers.run_local("tiny", "sqlite:///x.db", 2, watch)

    def test_hands_each_its_number_and_the_storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code = f"import os, sys; open(r'{tmp_path}/' + sys.argv[-1], 'w').write(os.environ['ZTP_STORAGE'])"
        self.run(monkeypatch, code)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"1": "sqlite:///x.db", "2": "sqlite:///x.db"}

    def test_one_failure_of_two_is_not_fatal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(monkeypatch, "import sys; sys.exit(sys.argv[-1] == '1')")

    def test_says_what_they_said_if_all_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SearchError, match=r"all 2 workers failed; the last words: (?s:.*)no such study"):
            self.run(monkeypatch, "import sys; sys.exit('no such study')")

    @pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(70)"])
    def test_one_that_dies_is_started_again(self, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code = f"import os, sys; file = r'{tmp_path}/' + sys.argv[-1]\nif not os.path.exists(file):\n"
        self.run(monkeypatch, code + f"    open(file, 'w').close()\n    {ending}\nopen(file + 'again', 'w').close()")
        again = {path.name for path in tmp_path.iterdir()} - {"1", "2"}
        assert {"1again", "2again"} >= again > set()  # once one is done, the other is not needed any more

    @pytest.mark.parametrize("ending", ["sys.exit(1)", "os.kill(os.getpid(), 15)"])
    def test_one_that_gave_up_or_was_asked_to_end_is_not(
        self, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SearchError, match="all 2 workers failed"):
            self.run(monkeypatch, f"import os, sys; open(r'{tmp_path}/' + sys.argv[-1], 'a').write('x'); {ending}")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["x", "x"]

    def test_one_that_dies_every_time_is_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_workers, "MAX_DEATHS", 3)
        code = f"import os, sys; open(r'{tmp_path}/' + sys.argv[-1], 'a').write('x'); os.kill(os.getpid(), 9)"
        with pytest.raises(SearchError, match=r"words: worker 1 was killed by SIGKILL; worker 2 was killed by SIGKILL"):
            self.run(monkeypatch, code)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["xxx", "xxx"]

    def test_one_that_lived_long_before_it_died_begins_its_count_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_workers, "CALM_S", 0.0)
        worker = local_workers.SupervisedWorker(1, lambda number: number)
        assert worker.begin_again("died", 3)
        worker.since -= local_workers.YOUNG_S
        assert [worker.begin_again("died", 3) for _ in range(3)] == [True, True, False]

    def test_one_that_dies_young_is_started_again_after_a_pause(self) -> None:
        started: list[int] = []
        worker = local_workers.SupervisedWorker(1, started.append)
        assert worker.begin_again("died")
        assert started == [1]
        worker.since -= local_workers.CALM_S
        assert worker.begin_again("died")
        assert started == [1, 1]

    def test_much_output_does_not_stall_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        began = time.monotonic()
        self.run(monkeypatch, "import sys; sys.stderr.write('x' * 1_000_000)")
        assert time.monotonic() - began < 30

    def test_interrupted_it_lets_workers_hand_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code = (
            "import sys, time\n"
            "from search.runtime.shutdown import graceful_shutdown\n"
            "try:\n"
            "    with graceful_shutdown():\n"
            f"        open(r'{tmp_path}/up' + sys.argv[-1], 'w').close(); time.sleep(60)\n"
            "except KeyboardInterrupt:\n"
            f"    open(r'{tmp_path}/back' + sys.argv[-1], 'w').close()\n"
        )

        def watch() -> None:
            if len(list(tmp_path.glob("up*"))) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(monkeypatch, code, watch)
        assert len(list(tmp_path.glob("back*"))) == 2


class TestStart:
    def test_from_another_studys_front_and_a_file(
        self, start: Start, tiny_spec: Spec, tmp_path: Path, check_sound: Callable[..., None], url: str
    ) -> None:
        first = start(tiny_spec(name="first", budget={"trials": 5}))
        launch(first.evaluator.spec, first.store.url, ignore)
        front = first.store.front(first.record.id)
        assert front is not None
        pruned = [point.search.schedule for point in front.points if point.search.schedule.stages]
        (tmp_path / "best.yaml").write_text(to_config(first.store.study("first"), front.points[-1]).to_yaml())
        entries = [str(tmp_path / "best.yaml"), "study:first"]
        spec = tiny_spec(name="second", budget={"trials": len(pruned) + 2}, start=entries)
        interrupted = False

        def interrupt(progress: Progress) -> None:
            if progress.done == 1 and not interrupted:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            launch(spec, first.store.url, interrupt)
        (tmp_path / "best.yaml").unlink()  # what was read is kept with the study
        interrupted = True
        launch(spec, first.store.url, ignore)
        check_sound(first.store, "second", len(pruned) + 2)
        record = first.store.study("second")
        kept = [(each["from"], len(each["schedules"])) for each in record.provenance["start"]]
        assert kept == [(entries[0], 1), (entries[1], len(pruned))]
        measured = [evaluation.search.schedule for evaluation in first.store.evaluations(record.id)]
        assert measured[1] == front.points[-1].search.schedule  # right after the dense model
        assert set(measured[1 : len(pruned) + 1]) == set(pruned)

    def test_from_a_study_that_is_not_there(self, url: str, tiny_spec: Spec, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"tiny: start\[0\]: study must be one of this storage, .* got 'first'"):
            launch(tiny_spec(start=["study:first"]), url, ignore)
        assert not list(tmp_path.iterdir())
