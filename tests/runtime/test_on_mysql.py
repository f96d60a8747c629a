"""A study on a real MariaDB: launched, worked on by two processes of which one is killed, and sound at its end."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.attribute_keys import PROBED
from search.runtime import local_workers
from search.runtime.launch import launch
from search.storage.store import Store
from search.types import Progress
from tests.contracts.stores.mariadb import MariaDB, missing
from tests.runtime.soundness import check_sound, optuna_trials

TRIALS = 10


@pytest.fixture
def store() -> Iterator[Store]:
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:  # a short path, for its socket
        server = MariaDB(Path(folder))
        store = Store.open(server.new_database())
        yield store
        store.close()
        server.close()


@pytest.mark.slow
def test_study_on_mysql(
    store: Store, start: Callable[..., Any], tiny_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_HEARTBEAT", "1")
    spec = tiny_spec(
        budget={"trials": TRIALS}, data={"search_images": 64}, sampler={"name": "auto"}, runtime={"batch_size": 4}
    )
    started = start(spec, store)
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*given: Any, **options: Any) -> Any:
        processes.append(popen(*given, **options))
        return processes[-1]

    def kill_one(progress: Progress) -> None:
        if progress.done >= 2 and len(processes) == 2:
            processes[0].kill()

    monkeypatch.setattr(local_workers.subprocess, "Popen", remember)
    assert launch(started.evaluator.spec, store.url, kill_one, workers=2).state == "done"
    assert len(processes) > 2
    check_sound(store, "tiny", TRIALS)
    assert [trial for trial in optuna_trials(store, "tiny") if trial.system_attrs.get(PROBED)]
