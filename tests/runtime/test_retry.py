"""Waiting for a database: what is waited for, how long, and what is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from search.config.environment import WorkerSettings, read_settings
from search.errors import InputError, SearchError, StorageLostError, StorageUnavailableError
from search.runtime import retry as patiences
from search.runtime.retry import RetryPolicy, plain
from search.storage.store import Store

GONE = OperationalError("SELECT 1", None, Exception("server closed the connection\nunexpectedly"))


def wrapped(error: Exception) -> StorageInternalError:
    """As Optuna's storage raises it."""
    outer = StorageInternalError("an exception is raised during the commit")
    outer.__cause__ = error
    return outer


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patiences, "FIRST_PAUSE_S", 0.001)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    return call


@pytest.mark.parametrize("error", [StorageUnavailableError("storage x: full"), GONE, wrapped(GONE)], ids=str)
def test_repeats_until_it_answers_and_says_so(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert RetryPolicy(5).call(failing(4, error)) == "done"
    assert [record.message for record in caplog.records if "trying again for 5 s" in record.message]
    assert caplog.records[-1].message.startswith("the storage answers again after 0.")
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "error",
    [
        SearchError("unknown study"),
        InputError("", "no such URL"),
        ValueError("a mistake"),
        IntegrityError("INSERT", None, Exception("twice")),
        wrapped(ProgrammingError("SELECT", None, Exception("no such table"))),
        StorageInternalError("for no reason"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_raises_at_once_what_waiting_does_not_mend(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        RetryPolicy(5).call(failing(1, error))
    assert raised.value is error


def test_gives_up_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with pytest.raises(
        StorageLostError, match=r"server closed the connection; waited 0.05 s for it: see that the database"
    ):
        RetryPolicy(0.05).call(failing(1000, wrapped(GONE)))
    assert 0.05 <= time.monotonic() - began < 5


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(patiences.time, "sleep", pauses.append)
    monkeypatch.setattr(patiences, "FIRST_PAUSE_S", 0.1)
    RetryPolicy(1000).call(failing(12, GONE))
    expected = [min(0.1 * 2**n, 10.0) for n in range(12)]
    assert all(0.5 * each <= pause <= 1.5 * each for pause, each in zip(pauses, expected, strict=True))
    assert len({round(pause / each, 6) for pause, each in zip(pauses, expected, strict=True)}) > 6


def test_a_store_with_patience_is_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = RetryPolicy(5).wrap(store)
    assert patient.url == store.url
    assert patient.studies() == store.studies()
    assert plain(patient) is plain(RetryPolicy(1).wrap(patient)) is plain(store) is store
    call = failing(2, StorageUnavailableError("gone"))
    monkeypatch.setattr(store.tasks, "beat", lambda name: call() + name)
    assert patient.tasks.beat("!") == "done!"
    with pytest.raises(InputError):
        patient.study("unknown")


class TestSettings:
    def test_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ZTP_HEARTBEAT", raising=False)
        monkeypatch.setenv("ZTP_DATABASE_PATIENCE", "")
        assert read_settings() == WorkerSettings(heartbeat_s=10.0, patience_s=300.0)

    def test_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ZTP_HEARTBEAT", "0.5")
        monkeypatch.setenv("ZTP_DATABASE_PATIENCE", "0")
        assert read_settings() == WorkerSettings(heartbeat_s=0.5, patience_s=0.0)

    @pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "10s"])
    def test_refused(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("ZTP_HEARTBEAT", text)
        rule = r"ZTP_HEARTBEAT must be a number of seconds, at least 0.1, got '.*'; the default is 10"
        with pytest.raises(InputError, match=rule):
            read_settings()

    def test_a_dead_worker_is_found_within_two_heartbeats(self) -> None:
        """At worst it dies right after a beat, and all have just looked when its lease is over."""
        settings = WorkerSettings(heartbeat_s=8.0)
        assert settings.lease_s + settings.look_s == 11.0  # 10 + 1
        assert settings.lease_s + settings.look_s < 2 * settings.heartbeat_s
        assert settings.beat_s * 4 < settings.lease_s  # and three lost beats are forgiven
