"""When a worker that died is started again: one rule for all engines, and for those that a service keeps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CALM_S = 10.0  # between two starts of one worker: what cannot live is not started over and over
MAX_DEATHS = 20  # of one worker in a row, each within YOUNG_S of its start: then it is not chance
YOUNG_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class SupervisedWorker:
    """A worker as who started it sees it. start: from its number, its job: a process, or Ray's task."""

    number: int
    start: Callable[[int], Any]
    job: Any = field(init=False)
    since: float = field(init=False)
    deaths: int = 0

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.job, self.since = self.start(self.number), time.monotonic()

    def begin_again(self, death: str, max_deaths: float = math.inf) -> bool:
        """To be called after a death until the worker lives: starts it once CALM_S are over. False if it is given up.

        death: how it died, for the log.
        """
        age_s = time.monotonic() - self.since
        if age_s >= CALM_S:
            self.deaths = self.deaths + 1 if age_s < YOUNG_S else 1
            if self.deaths >= max_deaths:
                return False
            log.warning("worker %d %s; starting it again", self.number, death)
            self._begin()
        return True
