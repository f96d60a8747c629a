"""Attempts at a task that fail: what kind of failure it is, how long one may take, when to stop trying."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from search.errors import SearchError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.types import CONFIRM, PREPARE, TRIAL

MAX_PREPARATION_S = 6 * 3600.0  # nothing is known of a machine's speed before a study is prepared
MIN_LIMIT_S = 600.0
SLOWER_THAN_PREDICTED = 10.0  # other work on the machine, a cold file system, a first call that compiles
MAX_IN_A_ROW = 5  # trials of one worker given up on: then it is not the trials


class TrialFailedError(Exception):
    """An attempt failed. kind: one of ATTEMPT_KINDS."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason = kind, reason


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what an evaluation raises into TrialFailedError.

    What is not the trial's (the database, a lost slot, being asked to end) passes.
    """
    try:
        yield
    except (SearchError, TrialFailedError):
        raise
    except Exception as error:
        raise TrialFailedError(_kind(error), f"{type(error).__name__}: {error}") from error


def _kind(error: Exception) -> str:
    # a CPU's allocator has no exception of its own
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    return "memory" if out_of_memory else "crashed"


def limit_s(evaluator: ScheduleEvaluator, kind: str = TRIAL) -> float:
    """How long an attempt at a task may take: of a trial what the study says, else what is beyond all predictions."""
    if kind == PREPARE:
        return MAX_PREPARATION_S
    if kind == TRIAL and evaluator.spec.runtime.trial_timeout is not None:
        return evaluator.spec.runtime.trial_timeout
    images = len(evaluator.context.confirm_split if kind == CONFIRM else evaluator.context.search_split)
    return max(MIN_LIMIT_S, SLOWER_THAN_PREDICTED * images / evaluator.calibration.dense_images_per_s)


def check_in_a_row(study: str, failure: TrialFailedError, failures: int, is_dense: bool) -> None:
    """Raise SearchError if, after so many failures in a row of one worker, it makes no sense to go on."""
    if is_dense:
        raise SearchError(
            f"study {study}: the dense model, with which all is compared, cannot be measured: {failure.reason}"
        ) from failure
    if failures >= MAX_IN_A_ROW:
        raise SearchError(f"study {study}: {failures} trials in a row failed; the last: {failure}") from failure
