"""Energy by the processor's own counters, where Linux shows them (RAPL, by /sys/class/powercap).

They count whole packages: cores, caches and memory controllers, not DRAM; idle cores and other work, too.
"""

from __future__ import annotations

import os
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGE = "package"  # names of zones: package-0, package-1, beside psys, which holds them
MICRO = 1e6  # microjoules


class EnergyMeter:
    """Joules of all packages since `restart`."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        zones = [path.parent for path in sorted(powercap.glob("*/name")) if path.read_text().startswith(PACKAGE)]
        self._zones = [zone for zone in zones if os.access(zone / "energy_uj", os.R_OK)]
        self.restart()

    @property
    def is_there(self) -> bool:
        """Whether there are counters that this user may read: often root alone may."""
        return bool(self._zones)

    def restart(self) -> None:
        self._began = [_read(zone / "energy_uj") for zone in self._zones]

    def joules(self) -> float:
        """A counter that has begun again in between, once, is known by its range."""
        total = 0
        for zone, began in zip(self._zones, self._began, strict=True):
            spent = _read(zone / "energy_uj") - began
            total += spent if spent >= 0 else spent + _read(zone / "max_energy_range_uj")
        return total / MICRO


def _read(path: Path) -> int:
    return int(path.read_text())
