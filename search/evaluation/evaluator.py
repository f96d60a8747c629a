"""The zero-shot evaluator: which images of a split a schedule gets right.

Knows PrunedViT and splits. Ignores studies, clocks and SQL.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.model import PrunedViT
from pruning.schedule import Schedule
from search.evaluation.data import Split
from search.evaluation.intervals import wilson
from search.evaluation.prefix import PrefixCache
from search.store.records import Accuracy

NO_CLASS = -1  # never right, whatever the label


class Evaluator:
    """Evaluates schedules of one backbone on one split, batch by batch in a fixed order, so that results repeat."""

    def __init__(
        self, model: PrunedViT, split: Split, kind: str, batch_size: int, device: torch.device, cache_bytes: int = 0
    ) -> None:
        """kind: "top1" (needs labels) or "agreement" (with the dense model, which is run when first needed).

        cache_bytes: what the prefix cache may hold on the device.
        """
        if kind == "top1" and split.labels is None:
            raise ValueError(f"kind top1 needs labels; split {split.name} has none")
        self._model = PrunedViT(model.backbone).eval()
        self._split, self._kind = split, kind
        self._batch_size, self._device = batch_size, device
        self._dense: NDArray[np.int64] | None = None
        self._cache = PrefixCache(cache_bytes)

    def correct(self, schedule: Schedule) -> NDArray[np.bool_]:
        """One truth value an image of the split, in split order."""
        answers = self._dense_predictions() if self._kind == "agreement" else self._split.labels
        predictions = self.predictions(schedule)
        correct: NDArray[np.bool_] = (predictions == answers) & (predictions != NO_CLASS)
        return correct

    @torch.inference_mode()
    def predictions(self, schedule: Schedule) -> NDArray[np.int64]:
        """The most likely class of each image, ties to the lower one; NO_CLASS where logits are not numbers."""
        self._model.schedule = schedule
        size, images = self._batch_size, len(self._split)
        batches = [(start, min(start + size, images)) for start in range(0, images, size)]
        logits = (self._logits(number, *batch) for number, batch in enumerate(batches))
        return torch.cat([_classes(batch) for batch in logits]).numpy()

    def _logits(self, number: int, start: int, stop: int) -> Tensor:
        """Logits of one batch, from the tokens entering the first stage if they are kept."""
        model, first = self._model, self._model.first_stage
        kept = self._cache.deepest(number, first)
        seeds = None
        if kept is None or model.draws:
            images = self._split.batch(start, stop).to(self._device)
            seeds = model.seeds(images)
            kept = kept or (0, model.embed(images))
        tokens = model.run_blocks(kept[1], kept[0], first)
        if first < model.family.depth:
            self._cache.keep(number, first, tokens)
        return model.head(model.run_blocks(tokens, first, seeds=seeds))

    def _dense_predictions(self) -> NDArray[np.int64]:
        if self._dense is None:
            self._dense = self.predictions(Schedule())
        return self._dense


def _classes(logits: Tensor) -> Tensor:
    """[B] from logits [B, classes]; overflow in a narrow number format must not count as an answer."""
    return logits.float().argmax(-1).where(logits.isfinite().all(-1), NO_CLASS).cpu()


def accuracy_of(correct: NDArray[np.bool_], kind: str) -> Accuracy:
    """The share of True, with its 95% Wilson interval."""
    hits, images = int(correct.sum()), len(correct)
    low, high = wilson(hits, images)
    return Accuracy(value=hits / images, low=low, high=high, images=images, kind=kind)
