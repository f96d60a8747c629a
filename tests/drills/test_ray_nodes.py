"""A Ray cluster of several nodes on this machine: workers on it do a study, also when a node is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search.errors import InputError
from search.runtime.launch import ENGINES, check_engine
from search.storage.store import Store
from tests.drills.nursery import ROOT, drill_spec, prepare
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_sound

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the package ray is not installed: pip install 'zero-tprune-search[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

TRIALS = 6
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "ZTP_HEARTBEAT": "3", "RAY_DISABLE_IMPORT_WARNING": "1"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, so that the work is on the other nodes."""
    import ray
    from ray.cluster_utils import Cluster

    for name, value in {**ENVIRONMENT, "RAY_health_check_period_ms": "1000"}.items():
        monkeypatch.setenv(name, value)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def drill(url: str, cluster: Any, lose: bool, report: Callable[..., None]) -> None:
    store = Store.open(url)
    record = prepare(store, drill_spec("ray", TRIALS))
    check_engine("ray", url)
    began, lost_at = time.monotonic(), list[float]()

    def lose_a_node() -> None:
        while store.progress(record.id).done < 2:
            time.sleep(0.1)
        lost_at.append(time.monotonic())
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    if lose:
        thread.start()
    watched: list[int] = []
    ENGINES["ray"].run("ray", url, 2, lambda: watched.append(store.progress(record.id).done))
    assert watched
    assert watched == sorted(watched)
    complete = len(store.tasks.slots(record.id, "done"))
    report(
        drill="Ray node lost" if lose else "Ray",
        faults=len(lost_at),
        expected=TRIALS,
        complete=complete,
        lost=TRIALS - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(record.id, "done")}),
        note=f"{time.monotonic() - began:.0f} s in all, 2 nodes of one core",
    )
    check_sound(store, "ray", TRIALS)
    assert len(workers_of(store, record.id)) >= 2
    store.close()


@pytest.mark.slow
def test_workers_of_a_cluster_spend_the_budget(postgres: PostgreSQL, cluster: Any, report: Callable[..., None]) -> None:
    drill(postgres.new_database(), cluster, False, report)


@pytest.mark.slow
def test_only_worker_is_killed_on_nodes_that_live(
    postgres: PostgreSQL, cluster: Any, report: Callable[..., None]
) -> None:
    """Nobody else is there to end the study: it was started again."""
    url = postgres.new_database()
    store = Store.open(url)
    record = prepare(store, drill_spec("ray", TRIALS))
    killed: list[int] = []

    def kill_once() -> None:
        if not killed and 1 <= store.progress(record.id).done < TRIALS:
            killed.extend(workers_of(store, record.id))
            os.kill(killed[0], signal.SIGKILL)

    ENGINES["ray"].run("ray", url, 1, kill_once)
    check_sound(store, "ray", TRIALS)
    pids = workers_of(store, record.id)
    assert len(killed) == 1
    assert len(pids - set(killed)) == 1
    report(drill="Ray worker killed", faults=1, expected=TRIALS, complete=TRIALS, lost=0, doubled=0)
    store.close()


def workers_of(store: Store, study_id: int) -> set[int]:
    """Process ids, by their names."""
    return {int(slot.worker.split("-")[-2]) for slot in store.tasks.slots(study_id)}


@pytest.mark.drill
def test_loss_of_a_node(postgres: PostgreSQL, cluster: Any, report: Callable[..., None]) -> None:
    drill(postgres.new_database(), cluster, True, report)


def test_storage_of_one_machine_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"every node of a Ray cluster reaches, got sqlite:///x\.db; use postgresql://"
    ):
        check_engine("ray", "sqlite:///x.db")


def test_cluster_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "not an address")
    with pytest.raises(InputError, match=r"engine ray needs a cluster that runs, got not an address: .*; start"):
        check_engine("ray", "postgresql://host/db")


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match=r"runtime\.engine must be one of local, ray, got 'slurm'"):
        check_engine("slurm", "sqlite:///x.db")
