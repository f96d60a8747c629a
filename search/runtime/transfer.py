"""What other studies of the store found out, for a new study to take over what holds for it too.

A latency profile is taken over only where its own study has shown it to be right, by the measured speed of finalists.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from pruning.schedule import UNTOUCHED
from search.attribute_keys import FACTS, PREDICTION_ERROR
from search.config.spec import StudyRecord
from search.evaluation.calibration import Calibration
from search.types import Evaluation

TRUSTED_ERROR = 0.05  # up to this a profile serves other studies


def prediction_error(finalists: Sequence[Evaluation]) -> float | None:
    """Median relative error of the predicted speed-ups against those measured; None if none was predicted.

    The dense model's is 1 by definition, predicted and measured: it tells nothing.
    """
    errors = [
        abs(finalist.search.throughput.speedup / finalist.confirm.throughput.speedup - 1)
        for finalist in finalists
        if finalist.confirm is not None
        and finalist.search.throughput.how == "profiled"
        and finalist.search.key != UNTOUCHED.key
        and not finalist.confirm.throughput.disturbed
    ]
    return statistics.median(errors) if errors else None


def found_elsewhere(records: Sequence[StudyRecord], name: str) -> dict[str, Calibration]:
    """By name, newest first, what all studies but `name` found out.

    Without the profile where it was found to be wrong; without its key where that is not known yet. What cannot be read
    here, as another release may have written it, is left out: it must not keep this study from running.
    """
    found = {}
    for record in reversed(records):
        known = record.provenance.get(FACTS)
        if known is None or record.name == name:
            continue
        with suppress(KeyError, TypeError, AttributeError):
            found[record.name] = _trusted(Calibration.from_dict(known), record.provenance.get(PREDICTION_ERROR))
    return found


def _trusted(calibration: Calibration, error: float | None) -> Calibration:
    if error is None:
        return replace(calibration, profile_key="")
    return calibration if error <= TRUSTED_ERROR else replace(calibration, profile=None)
