"""The end of a study is posted to its webhook: once, again after failures that pass, and never at the study's cost."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from search.config.spec import StudyRecord, make_spec
from search.errors import InputError, SearchError
from search.reporting.export import Limits, budget_limits, choose
from search.reporting.report import front_json
from search.runtime import webhook
from search.runtime.launch import launch
from search.runtime.study_runner import StudyRunner
from search.runtime.webhook import END_S, notifying
from search.storage.database import writing
from search.storage.store import Store
from search.storage.tables import STUDY
from search.types import OPEN_STATES, Progress
from tests.receiver import Receiver, receiving

Start = Callable[..., Any]
Spec = Callable[..., Any]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSES_S", (0.0, 0.01, 0.01, 0.01))


def ignore(progress: Progress) -> None:
    pass


def socks(store: Store, url: str | None) -> StudyRecord:
    """A study that waits."""
    return store.add_study(make_spec({"name": "socks", "backbone": {"name": "demo"}, "notify": {"webhook": url}}, "t"))


@pytest.mark.slow
def test_of_a_launch_that_is_done(start: Start, tiny_spec: Spec, receiver: Receiver) -> None:
    started = start(tiny_spec(budget={"trials": 2}, notify={"webhook": receiver.url}))
    record = launch(started.evaluator.spec, started.store.url, ignore)
    webhook.wait()
    (document,) = receiver.documents
    front, progress = started.store.front(record.id), started.store.progress(record.id)
    assert front is not None
    told = front_json(record, front)
    best = document.pop("best")
    assert best in [{name: point[name] for name in best} for point in told["points"]]
    assert best["trial"] == choose(front, Limits(), budget_limits(record, front)).trial  # as the command chooses
    assert document == {
        "study": "tiny",
        "state": "done",
        "note": "",
        "trials": {"done": 2, "total": 2},
        "front_size": len(front.points),
        "hypervolume": progress.hypervolume,
        "export": "ztp export tiny -o tiny-best.yaml",
    }


@pytest.mark.slow
def test_of_a_study_of_which_no_schedule_keeps_the_limits(
    start: Start, tiny_spec: Spec, oracle: Callable[..., Any], receiver: Receiver
) -> None:
    """Its note says which limits were missed by how many, and the nearest: so do the list, the status and the page."""
    limits = {"trials": 4, "min_speedup": 1.1, "max_accuracy_drop": 0.0}
    started = start(tiny_spec(budget=limits, notify={"webhook": receiver.url}))
    oracle(started.evaluator)
    StudyRunner(notifying(started.store), started.record, started.evaluator).run()
    progress = started.store.progress(started.record.id)
    assert (progress.state, progress.front_size) == ("done", 0)
    told = r"no schedule keeps the limits \(budget.max_accuracy_drop 0 by 3\); the nearest is trial [123]: [\d.]+ % at"
    assert re.match(told, progress.note)
    webhook.wait()
    assert [document["note"] for document in receiver.documents] == [progress.note]


def test_of_a_failure_that_stops_it(
    start: Start, tiny_spec: Spec, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.evaluation.schedule_evaluator import ScheduleEvaluator

    def fail(self: ScheduleEvaluator, *arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setenv("ZTP_WEBHOOK", receiver.url)  # the study names none
    monkeypatch.setattr(ScheduleEvaluator, "measure", fail)
    started = start(tiny_spec())
    with pytest.raises(SearchError, match="cannot be measured"):
        launch(started.evaluator.spec, started.store.url, ignore)
    webhook.wait()
    (document,) = receiver.documents
    assert document["note"].startswith("SearchError: study tiny: the dense model, with which all is compared, cannot")
    left_out = {key: document[key] for key in ("state", "trials", "front_size", "best", "export")}
    assert left_out == {
        "state": "stopped",
        "trials": {"done": 1, "total": 4},
        "front_size": 0,
        "best": None,
        "export": None,
    }


@pytest.mark.slow
def test_once_however_many_processes_work(
    start: Start, tiny_spec: Spec, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_WEBHOOK", receiver.url)
    started = start(tiny_spec(runtime={"batch_size": 4}))
    assert launch(started.evaluator.spec, started.store.url, ignore, workers=2).state == "done"
    webhook.wait()
    assert [(document["study"], document["state"]) for document in receiver.documents] == [("tiny", "done")]


class TestAChangeOfState:
    @pytest.fixture
    def told(self, store: Store) -> Store:
        return notifying(store)

    def test_is_told_if_it_ends_the_study_and_by_who_makes_it(self, told: Store, receiver: Receiver) -> None:
        study = socks(told, receiver.url)
        assert told.advance(study.id, ("created",), "running")
        assert told.advance(study.id, OPEN_STATES, "paused")
        assert told.advance(study.id, ("paused",), "created")
        assert told.tasks.leave(study.id, "created", "handed back")
        webhook.wait()
        assert receiver.got == []
        assert told.tasks.stop_for(study.id, SearchError("it is over"))
        assert not told.tasks.stop_for(study.id, SearchError("it is over, too"))
        webhook.wait()
        assert [(each["state"], each["note"]) for each in receiver.documents] == [
            ("stopped", "SearchError: it is over")
        ]

    def test_is_told_to_the_studys_own_webhook_first(
        self, store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZTP_WEBHOOK", receiver.url.replace("hook", "of-all"))
        study = socks(notifying(store), receiver.url)
        store.set_state(study.id, "stopped")
        store.set_state(store.study("shirts").id, "stopped")
        webhook.wait()
        assert sorted((path, document["study"]) for path, _, document in receiver.got) == [
            ("/hook", "socks"),
            ("/of-all", "shirts"),
        ]

    @pytest.mark.parametrize(("answers", "requests"), [([500, 503, 429], 4), ([404], 1), ([500] * 9, 4), ([204], 1)])
    def test_is_told_again_after_failures_that_pass(
        self, told: Store, receiver: Receiver, answers: list[int], requests: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.answers[:] = answers
        told.set_state(socks(told, receiver.url).id, "stopped")
        webhook.wait()
        assert len(receiver.got) == requests
        assert all(document == receiver.documents[0] for document in receiver.documents)
        failed = {404: "answered 404", 500: "answered 500"}.get(answers[0]) if len(answers) != 3 else None
        shown = f"webhook http://127.0.0.1:{receiver.port}/*** for study socks: not delivered: {failed}"
        assert caplog.messages == ([shown] if failed else [])

    def test_is_told_nowhere_else_by_a_redirect(
        self, told: Store, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.answers[:] = [307]
        told.set_state(socks(told, receiver.url).id, "stopped")
        webhook.wait()
        assert [path for path, _, _ in receiver.got] == ["/hook"]
        assert caplog.messages[0].endswith("not delivered: answered 307")

    def test_holds_though_nobody_listens_and_no_secret_is_logged(
        self, told: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        with receiving() as gone:
            url = gone.url
        study = socks(told, url.replace("://", "://me:s3cret-word@").replace("/hook", "/s3cret-word?key=s3cret-word"))
        with caplog.at_level(logging.WARNING):
            told.set_state(study.id, "stopped")
            webhook.wait()
        assert told.state(study.id) == "stopped"
        assert "not delivered: ConnectError: " in caplog.text
        assert "s3cret-word" not in caplog.text

    def test_is_told_with_the_urls_user_and_query(self, told: Store, receiver: Receiver) -> None:
        told.set_state(socks(told, receiver.url.replace("://", "://me:word@") + "?key=a").id, "stopped")
        webhook.wait()
        ((path, authorization, _),) = receiver.got
        assert (path, authorization) == ("/hook?key=a", "Basic bWU6d29yZA==")

    def test_holds_though_the_study_cannot_be_read(
        self, told: Store, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        study = socks(told, receiver.url)
        with writing(told._engine) as connection:
            connection.execute(update(STUDY).where(STUDY.c.id == study.id).values(spec={"of": "a later release"}))
        assert told.tasks.leave(study.id, "stopped", "interrupted")
        webhook.wait()
        assert told.state(study.id) == "stopped"
        assert caplog.messages == [f"study {study.id}: its webhook was not told of its end: InputError"]


@pytest.mark.slow
def test_a_silent_receiver_delays_the_end_of_a_launch_by_its_limit_at_most(
    url: str, tiny_document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_document(budget={"trials": 2}, runtime={"batch_size": 4})))
    with receiving(is_silent=True) as silent:
        command = [sys.executable, "-m", "search.cli", "launch", str(file), "--storage", url]
        command += ["--webhook", f"{silent.url}?key=s3cret-word"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ), **pipes) as process:
            assert process.stdout is not None
            assert any(line.startswith("next: ztp export tiny") for line in process.stdout)
            shown_at = time.monotonic()
            _, said = process.communicate(timeout=120)
            assert time.monotonic() - shown_at < END_S + 20  # all attempts would take twice as long
        assert process.returncode == 0
        assert {document["state"] for document in silent.documents} == {"done"}
        address = f"http://127.0.0.1:{silent.port}/***"
        assert f"ztp: webhook {address} for study tiny: given up, for this process ends\n" in said
        assert "s3cret-word" not in said


@pytest.mark.parametrize("text", ["ftp://host/s3cret", "host/s3cret", "http://", "http://[::1/s3cret", "https://a b\n"])
def test_an_environment_that_is_wrong_ends_it_at_the_start(
    text: str, tmp_path: Path, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_WEBHOOK", text)
    with pytest.raises(InputError, match=r"^ZTP_WEBHOOK must be an http:// or https:// URL with a host, got ") as wrong:
        launch(tiny_spec(), f"sqlite:///{tmp_path}/none.db", ignore)
    assert "s3cret" not in str(wrong.value)
    assert not list(tmp_path.iterdir())
