"""Workers on a Ray cluster that runs already: started, watched, and started again where they die.

Every node needs this package, the study's images and weights at the same paths, and the database by the same URL.
"""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from typing import Any

from search.errors import InputError, SearchError
from search.extras import check_extra
from search.runtime.local_workers import MAX_DEATHS, POLL_S, SupervisedWorker, Watch
from search.storage.urls import parse_url, shown

GRACE_S = 15.0  # after the budget is spent: a worker has nothing left to wait for then


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
    work = ray.remote(max_retries=0, max_calls=1, **_needs(ray, workers))(_work)
    pool = [SupervisedWorker(number, partial(work.remote, name, url)) for number in range(1, workers + 1)]
    words = ""
    try:
        finished: float | None = None
        while pool and (finished is None or time.monotonic() < finished + GRACE_S):
            watch()
            time.sleep(POLL_S)
            jobs = [worker.job for worker in pool]
            ended, _ = ray.wait(jobs, num_returns=len(jobs), timeout=0)
            for worker in [worker for worker in pool if worker.job in ended]:
                try:
                    ray.get(worker.job)
                    finished = finished or time.monotonic()
                except ray.exceptions.RayTaskError as error:  # it ran, and gave up
                    words = str(error.cause)
                except ray.exceptions.RayError as error:  # its process or its node is gone
                    words = str(error).partition("\n")[0]
                    if finished is None and worker.begin_again(f"is gone: {words}", MAX_DEATHS):
                        continue
                pool.remove(worker)
    finally:
        _end(ray, [worker.job for worker in pool])
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


def _end(ray: Any, jobs: list[Any]) -> None:
    for force in (False, True):  # first as a SIGINT, which lets a worker hand its trial back
        for job in jobs:
            ray.cancel(job, force=force)
        if jobs:
            _, jobs = ray.wait(jobs, num_returns=len(jobs), timeout=GRACE_S)


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
