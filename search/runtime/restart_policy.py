"""When a worker whose process died is started again: one rule for all engines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

MAX_DEATHS = 20  # of one worker in a row, each within YOUNG_S of its start: then it is not chance
YOUNG_S = 60.0


@dataclass
class RestartPolicy:
    """Of one worker, its restarts included."""

    since: float = field(default_factory=time.monotonic)
    deaths: int = 0

    def may_begin_again(self) -> bool:
        """After a death: whether the worker may be started again; if so, it counts as started now."""
        now = time.monotonic()
        self.deaths = self.deaths + 1 if now - self.since < YOUNG_S else 1
        self.since = now
        return self.deaths < MAX_DEATHS


@dataclass
class EngineWorker:
    """A worker as its engine sees it. job: its process, or Ray's task; another after each restart."""

    number: int
    job: Any
    life: RestartPolicy = field(default_factory=RestartPolicy)
