"""A comparison of pruning methods as a record, and the statistics that judge it.

All rows answered the same images, so differences are paired: only images that one of two rows has right and the other
wrong can tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError
from search.evaluation.intervals import fair_binomial_test
from search.types import FLOP_CONVENTION, Measurement, to_document, to_record

FORMAT = 1
SAVING = "dense, exact savings"
SIGNIFICANCE = (
    "McNemar's exact test against the most accurate row of the level, two-sided, on the images that only one of the "
    "two has right; Holm's correction over the level's comparisons"
)

Bits = NDArray[np.bool_]


def mcnemar(ours: Bits, theirs: Bits) -> tuple[float, int, int]:
    """Two-sided exact p-value of both being right equally often, images only ours has right, and only theirs.

    ours, theirs: [images], whether each answer is right. Under the hypothesis each of the w + l images that the two
    disagree about falls to either side with chance 1/2. Source: McNemar, Psychometrika 12 (1947); exact by the
    binomial distribution. Raises ValueError unless both have the same images.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"both must answer the same images, got {len(ours)} and {len(theirs)} answers")
    wins, losses = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    return fair_binomial_test(wins, losses), wins, losses


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: each may be compared with the level that all comparisons together are to keep.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """A row against the most accurate row of its level. p: after Holm's correction; p_single: before.

    wins, losses: images that only this row has right, and only the best one.
    """

    p: float
    p_single: float
    wins: int
    losses: int


@dataclass(frozen=True)
class Row:
    """One method at one level. level: what it was held to, "0.25 GFLOPs" say; rows of one level are comparable.

    method: of all stages; of a configuration's several, joined by " + ".
    absent: why there is no measurement; "" if there is one. verdict: None for the best of a level, or where nothing
    else was measured.
    """

    name: str
    method: str
    level: str
    measurement: Measurement | None = None
    absent: str = ""
    verdict: Verdict | None = None
    best: bool = False


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image without and with exact savings, whatever the schedule asks for; equal where there are none."""

    without_savings: int
    with_savings: int


@dataclass(frozen=True)
class Comparison:
    """What `ztp compare` found.

    backbone: {name, weights, fingerprint}, the options that are not the model's own, and its preprocessing.
    images: how many, and which, in words. dense: the untouched model. saving: the same without what its last block
    computes for nobody; None where the backbone has no exact savings. costs: by a measurement's key; empty in documents
    from before there were any.
    """

    backbone: Mapping[str, Any]
    images: str
    dense: Measurement
    rows: tuple[Row, ...]
    saving: Measurement | None = None
    costs: Mapping[str, Costs] = field(default_factory=dict)

    @property
    def denses(self) -> dict[str, Measurement]:
        """The dense model, and with exact savings where it has them, by what to call them."""
        return {"dense": self.dense} | ({SAVING: self.saving} if self.saving else {})

    @property
    def levels(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(row.level for row in self.rows))

    def at(self, level: str) -> list[Row]:
        return [row for row in self.rows if row.level == level]

    def ideal(self, measurement: Measurement) -> float:
        """The speed-up if time went with FLOPs."""
        return self.dense.flops / measurement.flops

    def realised(self, measurement: Measurement) -> float:
        """The share of the ideal speed-up that the clock confirms."""
        return measurement.throughput.speedup / self.ideal(measurement)

    def to_dict(self) -> dict[str, Any]:
        """One JSON document; `from_dict` reads it again."""
        return {
            "format": FORMAT,
            "backbone": dict(self.backbone),
            "images": self.images,
            "dense": self._measured_dict(self.dense),
            "dense_saving": self._measured_dict(self.saving) if self.saving else None,
            "rows": [self._row_dict(row) for row in self.rows],
            "significance": SIGNIFICANCE,
            "flop_convention": FLOP_CONVENTION,
        }

    def _measured_dict(self, measured: Measurement) -> dict[str, Any]:
        return {**measured.to_dict(), "gflops": measured.gflops, **self.costs_dict(measured)}

    def costs_dict(self, measured: Measurement) -> dict[str, int]:
        """{flops_without_savings, flops_with_savings}; empty where they are not known."""
        costs = self.costs.get(measured.key)
        return {f"flops_{name}": flops for name, flops in asdict(costs).items()} if costs else {}

    def _row_dict(self, row: Row) -> dict[str, Any]:
        plain = to_document(row) | {"absent": row.absent or None}
        if row.measurement:
            plain["measurement"] = self._measured_dict(row.measurement)
            plain |= {"ideal_speedup": self.ideal(row.measurement), "realised": self.realised(row.measurement)}
        return plain

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Comparison:
        """Inverse of `to_dict`. Raises InputError with `place` unless it is one."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT or "rows" not in data:
            raise InputError(place, f"must be what ztp compare --json printed, format {FORMAT}", remedy="compare again")
        try:
            found = [data["dense"], data.get("dense_saving"), *(row["measurement"] for row in data["rows"])]
            return cls(
                backbone=dict(data["backbone"]),
                images=data["images"],
                dense=Measurement.from_dict(data["dense"]),
                rows=tuple(to_record(Row, row | {"absent": row["absent"] or ""}) for row in data["rows"]),
                saving=Measurement.from_dict(data["dense_saving"]) if data.get("dense_saving") else None,
                costs=_costs([each for each in found if each]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(place, "must be what ztp compare --json printed", repr(error), "compare again") from None


def _costs(measured: Iterable[Mapping[str, Any]]) -> dict[str, Costs]:
    names = ("flops_without_savings", "flops_with_savings")
    return {each["key"]: Costs(*(each[name] for name in names)) for each in measured if names[0] in each}


def judge(rows: Sequence[Row], answers: Mapping[int, Bits]) -> list[Row]:
    """The rows of one level with their best marked and the others tested against it.

    answers: [images] correctness of each measured row, by its place in `rows`. The most accurate is best, the first
    of equals.
    """
    if not answers:
        return list(rows)
    best = max(answers, key=lambda place: (int(answers[place].sum()), -place))
    others = [place for place in answers if place != best]
    tests = [mcnemar(answers[place], answers[best]) for place in others]
    adjusted = holm([p for p, _, _ in tests])
    verdicts = {place: Verdict(p, *test) for place, p, test in zip(others, adjusted, tests, strict=True)}
    return [replace(row, best=place == best, verdict=verdicts.get(place)) for place, row in enumerate(rows)]


def judge_levels(rows: Iterable[tuple[Row, Bits | None]]) -> tuple[Row, ...]:
    """`judge` for each level; the order of rows within a level stays, levels in order of appearance."""
    levels: dict[str, list[tuple[Row, Bits | None]]] = {}
    for row, bits in rows:
        levels.setdefault(row.level, []).append((row, bits))
    judged: list[Row] = []
    for members in levels.values():
        answers = {place: bits for place, (_, bits) in enumerate(members) if bits is not None}
        judged += judge([row for row, _ in members], answers)
    return tuple(judged)
