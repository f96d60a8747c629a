"""Whether a worker that died is started again: yes, unless it dies young again and again, for then it is not chance.

Knows clocks. Ignores processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MOST_DEATHS = 20  # in a row, each within YOUNG_S of the start
YOUNG_S = 60.0


@dataclass
class Restarts:
    """Of one worker, which starts when this is made."""

    since: float = field(default_factory=time.monotonic)
    deaths: int = 0

    def allow_another(self) -> bool:
        """To be asked at each death; if so, the worker counts as started anew."""
        young = time.monotonic() - self.since < YOUNG_S
        self.deaths = self.deaths + 1 if young else 1
        self.since = time.monotonic()
        return self.deaths < MOST_DEATHS
