"""The zero-shot evaluator: which images of a split a schedule gets right.

Knows PrunedViT and splits. Ignores studies, clocks and SQL.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pruning.model import PrunedViT
from pruning.schedule import Schedule
from search.evaluation.data import Split
from search.evaluation.intervals import wilson
from search.store.records import Accuracy


class Evaluator:
    """Evaluates schedules of one backbone on one split, batch by batch in a fixed order, so that results repeat."""

    def __init__(self, model: PrunedViT, split: Split, kind: str, batch_size: int, device: torch.device) -> None:
        """kind: "top1" (needs labels) or "agreement" (with the dense model, which is run when first needed)."""
        if kind == "top1" and split.labels is None:
            raise ValueError(f"kind top1 needs labels; split {split.name} has none")
        self._model = PrunedViT(model.backbone).eval()
        self._split, self._kind = split, kind
        self._batch_size, self._device = batch_size, device
        self._dense: NDArray[np.int64] | None = None

    def correct(self, schedule: Schedule) -> NDArray[np.bool_]:
        """One truth value an image of the split, in split order."""
        answers = self._dense_predictions() if self._kind == "agreement" else self._split.labels
        correct: NDArray[np.bool_] = self.predictions(schedule) == answers
        return correct

    @torch.inference_mode()
    def predictions(self, schedule: Schedule) -> NDArray[np.int64]:
        """The most likely class of each image; ties go to the lower class."""
        self._model.schedule = schedule
        batches = self._split.batches(self._batch_size)
        classes = [self._model(batch.to(self._device)).float().argmax(-1).cpu() for batch in batches]
        return torch.cat(classes).numpy()

    def _dense_predictions(self) -> NDArray[np.int64]:
        if self._dense is None:
            self._dense = self.predictions(Schedule())
        return self._dense


def accuracy_of(correct: NDArray[np.bool_], kind: str) -> Accuracy:
    """The share of True, with its 95% Wilson interval."""
    hits, images = int(correct.sum()), len(correct)
    low, high = wilson(hits, images)
    return Accuracy(value=hits / images, low=low, high=high, images=images, kind=kind)
