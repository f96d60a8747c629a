"""How many cores this process may use, and how workers share them."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
THREADS = "OMP_NUM_THREADS"


def usable_cores() -> float:
    """Cores this process may use: its affinity, and the control group's quota where there is one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return affinity
    return affinity if quota == "max" else min(affinity, int(quota) / int(period))


def threads_each(workers: int) -> int:
    """Threads of each of `workers` processes: an even share of the usable cores, never more than the user has set."""
    share = max(1, int(usable_cores() // max(1, workers)))
    chosen = os.environ.get(THREADS, "")
    return min(share, int(chosen)) if chosen.isdecimal() and int(chosen) > 0 else share
