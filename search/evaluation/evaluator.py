"""The zero-shot evaluator: which images of a split a schedule gets right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.tokens import Tokens
from search.config.objectives import AGREEING, LABELLED
from search.evaluation.data.splits import Split
from search.evaluation.host_lock import shared
from search.evaluation.intervals import wilson
from search.evaluation.prefix_cache import PrefixCache
from search.evaluation.readouts import Readout
from search.evaluation.reference import DenseReference, Seen
from search.types import Accuracy

Bits = NDArray[np.bool_]
Positions = NDArray[np.int64]
NO_CLASS = -1  # never right, whatever the label


GoOn = Callable[[Bits], bool]


class Evaluator:
    """Evaluates schedules of one backbone on one split, batch by batch in a fixed order, so that results repeat."""

    def __init__(
        self,
        model: PrunedViT,
        split: Split,
        kind: str,
        batch_size: int,
        device: torch.device,
        cache_bytes: int = 0,
        order: Positions | None = None,
        reference: DenseReference | None = None,
        readout: Readout | None = None,
    ) -> None:
        """kind: of `ObjectivesSpec.accuracy`; some need labels, some the dense model, which is run when first needed.

        cache_bytes: what the prefix cache may hold on the device. order: a permutation of the split's images;
        None for the split's own order. reference: of the split; what it lacks is filled in when it is needed.
        readout: how class scores come of what the model says; None for its logits.
        """
        if kind in LABELLED and split.labels is None:
            raise ValueError(f"kind {kind} needs labels; split {split.name} has none")
        self._model = PrunedViT(model.backbone, UNTOUCHED).eval()
        self._split, self._kind = split, kind
        self._device = device
        order = np.arange(len(split)) if order is None else order
        self._batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._order = order
        self._cache = PrefixCache(cache_bytes)
        self._reference = reference
        self.readout = readout or Readout(0)

    def correct(self, schedule: Schedule) -> Bits:
        """One truth value an image of the split, in split order."""
        correct = np.empty(len(self._order), dtype=bool)
        correct[self._order] = self.see(schedule).correct
        return correct

    def see(self, schedule: Schedule, go_on: GoOn = lambda correct: True, before: Seen | None = None) -> Seen:
        """What the schedule makes of the images, in the evaluator's order, until all are seen or `go_on` says no.

        go_on: called after every batch but the last with the truth values so far. before: of the first images, as an
        earlier call gave them; their batches are not run again.
        """
        done = sum(last <= len(before or ()) for last in accumulate(map(len, self._batches)))
        seen = before.first(sum(map(len, self._batches[:done]))) if before and done else None
        for positions, logits in zip(self._batches[done:], self._run(schedule, done), strict=True):
            found = self._judge(positions, logits)
            seen = found if seen is None else seen.joined(found)
            if len(seen) < len(self._order) and not go_on(seen.correct):
                break
        assert seen is not None
        return seen

    def _judge(self, positions: Positions, logits: Tensor) -> Seen:
        """The answers of one batch against what is right, and the dense model's."""
        predictions, answers = classes_of(logits).numpy(), self._answers[positions]
        right = (predictions == answers) & (predictions != NO_CLASS)
        if self._reference is None:
            return Seen(right)
        dense, divergence = self._reference.compare(positions, logits)
        return Seen(right, predictions == dense, right != (dense == answers), divergence)

    def predictions(self, schedule: Schedule) -> NDArray[np.int64]:
        """The most likely class of each image, in split order; ties go to the lower class; NO_CLASS where logits
        are not numbers."""
        predictions = np.empty(len(self._order), dtype=np.int64)
        classes = [classes_of(logits).numpy() for logits in self._run(schedule, compare=False)]
        predictions[self._order] = np.concatenate(classes)
        return predictions

    def scores(self, schedule: Schedule) -> Tensor:
        """[images, classes] of every image, in the evaluator's order, on the device."""
        return torch.cat(list(self._run(schedule, compare=False)))

    @torch.inference_mode()
    def dense(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The dense model's predictions and margins (top-1 minus top-2 probability), in split order."""
        classes, margins = np.empty(len(self._order), dtype=np.int64), np.empty(len(self._order))
        for positions, logits in zip(self._batches, self._run(UNTOUCHED, compare=False), strict=True):
            if self._reference is not None:
                self._reference.keep(positions, logits)
            classes[positions] = classes_of(logits).numpy()
            best = logits.float().softmax(-1).topk(min(2, logits.shape[-1])).values.cpu().double().numpy()
            margins[positions] = np.nan_to_num(best[:, 0] - best[:, -1])
        return classes, margins

    def _run(self, schedule: Schedule, first: int = 0, compare: bool = True) -> Iterator[Tensor]:
        """Scores batch by batch, from the batch `first` on. compare: with the dense model's, filled in beforehand."""
        for number, positions in enumerate(self._batches[first:], start=first):
            with torch.inference_mode():
                if compare and self._reference is not None and not self._reference.knows(positions):
                    self._model.schedule = UNTOUCHED
                    self._reference.keep(positions, self.batch_scores(number, positions))
                self._model.schedule = schedule
                logits = self.batch_scores(number, positions)
            yield logits

    @shared()
    def batch_scores(self, number: int, positions: Positions) -> Tensor:
        """Scores of one batch, from the tokens entering the first stage if they are kept; never beside a timing."""
        model, first = self._model, self._model.first_stage
        kept = self._cache.deepest(number, first)
        seeds = None
        if kept is None or model.draws:
            images = self._split.take(positions).to(self._device)
            seeds = model.seeds(images)
            kept = kept or (0, model.embed(images))
        if first == model.family.depth:  # no stage: nothing that another schedule could begin with
            return self._read(kept[1], kept[0], seeds)
        tokens = model.run_blocks(kept[1], kept[0], first)
        self._cache.keep(number, first, tokens)
        return self._read(tokens, first, seeds)

    def _read(self, tokens: Tensor, start: int, seeds: Tensor | None) -> Tensor:
        """Class scores of tokens that enter block `start`."""
        outputs = self._model.logits(Tokens(tokens), start, seeds, pre_logits=self.readout.reads_features)
        return self.readout.scores(outputs)

    @cached_property
    def _answers(self) -> NDArray[np.int64]:
        """What counts as right, in split order."""
        if self._kind in AGREEING:
            return self.predictions(UNTOUCHED)
        assert self._split.labels is not None
        return self._split.labels


def classes_of(logits: Tensor) -> Tensor:
    """[B] from logits [B, classes]; overflow in a narrow number format must not count as an answer."""
    return logits.float().argmax(-1).where(logits.isfinite().all(-1), NO_CLASS).cpu()


def accuracy_of(correct: NDArray[np.bool_], kind: str) -> Accuracy:
    """The share of True, with its 95% Wilson interval."""
    hits, images = int(correct.sum()), len(correct)
    low, high = wilson(hits, images)
    return Accuracy(value=hits / images, low=low, high=high, images=images, kind=kind)
