"""Who lives: process identities of this machine. The budget's invariants are in tests/contracts/stores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.config.spec import make_spec
from search.storage import processes
from search.storage.store import Store

RESERVE = """
import sys
from search.storage.store import Store
store = Store.open(sys.argv[1])
slot = store.trials.reserve(int(sys.argv[2]), "other", 9)
print(slot.worker, flush=True)
sys.stdin.read()
"""


def test_this_process_lives_and_a_reused_number_does_not() -> None:
    mine = processes.process_identity(os.getpid())
    assert mine.startswith(f"{os.getpid()}:")
    assert processes.is_alive(mine)
    assert not processes.is_alive(f"{os.getpid()}:1")  # same number, started at another time


def test_without_start_times_the_number_decides() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert processes.is_alive(f"{os.getpid()}:")
    assert processes.is_alive("1:")  # exists, also where it may not be signalled
    assert not processes.is_alive(f"{done.pid}:")


def test_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = processes.process_identity(child.pid)
    assert processes.is_alive(identity)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    assert not processes.is_alive(identity)
    child.communicate()


def test_machine_has_one_identity() -> None:
    assert processes.host_identity() == processes.host_identity()
    assert 0 < len(processes.host_identity()) <= 255


@pytest.fixture
def opened(tmp_path: Path, empty_file: Path) -> Store:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    return Store.open(f"sqlite:///{tmp_path}/ztp.db")


class TestAnotherProcess:
    @pytest.fixture
    def study_id(self, opened: Store) -> int:
        return opened.add_study(make_spec({"name": "shirts", "backbone": {"name": "demo"}}, "test")).id

    @pytest.fixture
    def worker(self, opened: Store, study_id: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RESERVE, opened.url, str(study_id)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "other\n"
        return worker

    def test_is_stale_at_once_when_killed_and_not_before(
        self, opened: Store, study_id: int, worker: subprocess.Popen[str]
    ) -> None:
        assert opened.tasks.stale_slots(study_id) == []
        worker.kill()
        worker.communicate()
        assert [slot.worker for slot in opened.tasks.stale_slots(study_id)] == ["other"]

    def test_of_another_machine_is_only_judged_by_its_beat(
        self,
        opened: Store,
        study_id: int,
        worker: subprocess.Popen[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        worker.kill()
        worker.communicate()
        monkeypatch.setattr(processes, "host_identity", lambda: "elsewhere")
        assert opened.tasks.stale_slots(study_id) == []
