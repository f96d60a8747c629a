"""Fronts that searches found, from files, and the point that each offers at a level of cost.

A file is what `ztp front NAME --json` printed, of one study or of several, or an exported configuration: a front of
one point. Knows files and schedules. Ignores images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning.schedule import Schedule
from pruning.yaml_io import read_yaml
from search.errors import InputError
from search.evaluation.compare.entries import Cost
from tests.benchmarks.real_schedules import Entry, Level

NAME = "searched"


@dataclass(frozen=True)
class Point:
    """accuracy: on images that its search never saw if it is confirmed, else on those it was chosen with.

    estimate: of the accuracy, from all that was measured, if there is one. divergence: from dense, on the images of the
    accuracy; infinite if unknown. speedup: over dense, as predicted while searching; None if unknown.
    """

    schedule: Schedule
    accuracy: float
    confirmed: bool
    estimate: float | None = None
    divergence: float = math.inf
    speedup: float | None = None


@dataclass(frozen=True)
class Front:
    name: str
    points: tuple[Point, ...]

    def entry(self, level: Level, cost: Cost, by: str = "confirm") -> Entry:
        """The best point that costs at most the level.

        by: "confirm", the most accurate of the confirmed ones if there are any so cheap, since an unconfirmed accuracy
        is partly luck; of equals the one that diverges least. "estimate", the one with the highest estimate.
        """
        cheap = [point for point in self.points if cost(point.schedule) <= level.flops]
        return self._best(cheap, level.name, by, "no point of its front is so cheap")

    def entry_as_fast(self, speedup: float, by: str = "confirm") -> Entry:
        """The best point, as by `entry`, that is predicted to be so many times as fast as dense."""
        fast = [point for point in self.points if point.speedup is not None and point.speedup >= speedup]
        return self._best(fast, f"{speedup:g}x", by, "no point of its front is so fast")

    def _best(self, points: Sequence[Point], level: str, by: str, absent: str) -> Entry:
        chosen = [point for point in points if point.confirmed] or points
        if not chosen:
            return Entry(level, NAME, self.name, absent=absent)
        if by == "estimate":
            best = max(chosen, key=lambda point: point.accuracy if point.estimate is None else point.estimate)
        else:
            best = max(chosen, key=lambda point: (point.accuracy, -point.divergence))
        return Entry(level, NAME, self.name, best.schedule)


def read_fronts(paths: Sequence[Path]) -> list[Front]:
    """All fronts of all files, called by their file. Raises InputError or PruningError naming file, place, value."""
    found = [front for path in paths for front in _read(path)]
    names = [front.name for front in found]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise InputError(
            "--front", "must name each file once, and none like another", f"{doubled[0]} twice", "rename one"
        )
    return found


def _read(path: Path) -> Iterator[Front]:
    document = _parse(path)
    for part in document if isinstance(document, list) else [document]:
        if not isinstance(part, Mapping) or not ("points" in part or "schedule" in part):
            raise InputError(path, "must be what ztp front --json printed, or an exported configuration")
        name = f"{path.stem}, {part.get('study')}" if isinstance(document, list) else path.stem
        points = part["points"] if "points" in part else [_of_config(part)]
        yield Front(name, tuple(_point(each, f"{path}: points[{i}]") for i, each in enumerate(points)))


def _parse(path: Path) -> Any:
    """JSON first: YAML reads it too, but its 6e-05 is text."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return read_yaml(path)


def _of_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """An exported configuration as a point of a front."""
    metrics = document.get("metrics") or {}
    accuracy = (metrics.get("search") or {}).get("accuracy", 0.0)  # it is the only one
    return {"schedule": document["schedule"], "accuracy": accuracy, "confirm": metrics.get("confirm")}


def _point(data: Any, place: str) -> Point:
    try:
        confirm = data.get("confirm")
        accuracy = float((confirm or data)["accuracy"])
        fidelity = (confirm or data).get("fidelity") or {}
        schedule = data["schedule"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(place, "must have schedule and accuracy", repr(error), "print it again") from None
    # exact savings are given to all rows alike
    return Point(
        replace(Schedule.from_dict(schedule, place), exact_savings=True),
        accuracy,
        confirm is not None,
        (confirm or {}).get("estimate") or data.get("estimate"),
        fidelity.get("divergence", math.inf),
        data.get("speedup"),
    )
