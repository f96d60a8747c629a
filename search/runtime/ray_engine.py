"""Workers on a Ray cluster that runs already: started, watched, and started again where they die.

Every node needs this package, the study's images and weights at the same paths, and the database by the same URL.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from search.errors import InputError, SearchError
from search.extras import check_extra
from search.runtime.restart_policy import EngineWorker
from search.storage.database import parse_url
from search.storage.urls import shown

POLL_S = 1.0
GRACE_S = 15.0  # after the budget is spent: a worker has nothing left to wait for then

Watch = Callable[[], None]


def check_ray(url: str) -> None:
    """Raise InputError if Ray is not installed, no cluster is found, or the storage is of one machine alone."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        rule = "must be one that every node of a Ray cluster reaches"
        raise InputError("storage", rule, shown(parsed), "use postgresql:// or mysql://")
    _connect()


def run_ray(name: str, url: str, workers: int, watch: Watch) -> None:
    """`workers` tasks, each with a GPU of its own where the cluster has any, else with an even share of its cores.

    The cluster is that of RAY_ADDRESS, or one that runs on this machine. Returns when the study's budget is spent.
    Raises SearchError with the last worker's words if all of them failed; when interrupted, ends those it started.
    """
    ray = _connect()
    start = ray.remote(max_retries=0, max_calls=1, **_needs(ray, workers))(_work)
    members = [EngineWorker(number, start.remote(name, url, number)) for number in range(1, workers + 1)]
    words = ""
    try:
        finished: float | None = None
        while members and (finished is None or time.monotonic() < finished + GRACE_S):
            watch()
            ended, _ = ray.wait([member.job for member in members], timeout=POLL_S)
            for member in [each for each in members if each.job in ended]:
                members.remove(member)
                try:
                    ray.get(member.job)
                    finished = finished or time.monotonic()
                except ray.exceptions.RayTaskError as error:  # it ran, and gave up
                    words = str(error.cause)
                except ray.exceptions.RayError as error:  # its process or its node is gone
                    words = str(error).partition("\n")[0]
                    if finished is None and member.life.may_begin_again():
                        member.job = start.remote(name, url, member.number)
                        members.append(member)
    finally:
        _end(ray, members)
    if finished is None:
        raise SearchError(f"all {workers} workers failed; the last words: {words[-500:]}")


def _work(name: str, url: str, number: int) -> None:
    """One worker, in a process of Ray's on some node."""
    from search.runtime import webhook
    from search.runtime.worker_entrypoints import join  # torch, which the driver's side does without

    try:
        join(name, url, number)
    finally:
        webhook.wait()  # Ray ends the process in its own way


def _needs(ray: Any, workers: int) -> dict[str, int]:
    """Resources of one worker: no more cores than the largest node has, or it would wait for ever."""
    cluster = ray.cluster_resources()
    if cluster.get("GPU", 0) >= 1:
        return {"num_gpus": 1, "num_cpus": 1}
    largest = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    return {"num_cpus": max(1, int(min(largest, cluster.get("CPU", 1) // workers)))}


def _end(ray: Any, members: list[EngineWorker]) -> None:
    for force in (False, True):  # first as a SIGINT, which lets a worker hand its trial back
        tasks = [member.job for member in members]
        for task in tasks:
            ray.cancel(task, force=force)
        if tasks:
            ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=GRACE_S)
            members = [member for member in members if member.job not in ended]


def _connect() -> Any:
    check_extra("engine ray", "ray")
    import ray  # takes seconds to load

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            remedy = "start one with `ray start --head`, or set RAY_ADDRESS"
            raise InputError("engine ray", "needs a cluster that runs", f"{address}: {reason}", remedy) from None
    return ray
