"""What the dense model answers on a split, kept so that pruned models' answers can be compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.evaluation.image_sampling import ImageOrder
from search.evaluation.racing import mean_difference
from search.evaluation.regression_estimator import MIN_ODDS
from search.types import Fidelity

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
MAX_BYTES = 2**30  # of log-probabilities: 5,000 images of 21,843 classes take 0.4 GiB


@dataclass(frozen=True)
class Seen:
    """What a schedule made of images, one value each, in the order in which it saw them.

    correct: whether its class is right. agrees: whether it is the dense model's. changed: whether it is right where the
    dense model is wrong, or wrong where that is right. divergence: Kullback-Leibler divergence from the dense model's
    class probabilities, nats. All but `correct` are None where there is no reference.
    """

    correct: Bits
    agrees: Bits | None = None
    changed: Bits | None = None
    divergence: Floats | None = None

    def __len__(self) -> int:
        return len(self.correct)

    def first(self, images: int) -> Seen:
        """Of the first images alone."""
        return self._with(lambda part, _: part[:images], self)

    def joined(self, other: Seen) -> Seen:
        """With what was seen next."""
        return self._with(lambda part, further: np.concatenate([part, further]), other)

    def _with(self, change: Callable[[Any, Any], Any], other: Seen) -> Seen:
        changed: dict[str, Any] = {
            name: None if part is None else change(part, getattr(other, name)) for name, part in vars(self).items()
        }
        return Seen(**changed)


class DenseReference:
    """The dense model's log-probabilities on a split, filled in batch by batch. float32 [images, classes]."""

    def __init__(self, images: int, classes: int) -> None:
        self._values = np.empty((images, classes), dtype=np.float32)
        self._is_known = np.zeros(images, dtype=bool)

    @staticmethod
    def fits(images: int, classes: int) -> bool:
        """Whether it is worth its memory."""
        return 4 * images * classes <= MAX_BYTES

    def knows(self, positions: Positions) -> bool:
        return bool(self._is_known[positions].all())

    def keep(self, positions: Positions, logits: Tensor) -> None:
        """logits: [B, classes] of the images at `positions`."""
        self._values[positions] = logits.float().log_softmax(-1).cpu().numpy()
        self._is_known[positions] = True

    def compare(self, positions: Positions, logits: Tensor) -> tuple[NDArray[np.int64], Floats]:
        """The dense model's classes [B], and the divergence [B] of `logits` from its answers, nats."""
        expected = torch.from_numpy(self._values[positions])
        found = logits.float().log_softmax(-1).cpu()
        divergence = (expected.exp() * (expected - found)).sum(-1).double()
        worst = float(np.log(expected.shape[-1]))  # of answers that are no numbers: as bad as knowing nothing
        return expected.argmax(-1).numpy(), torch.nan_to_num(divergence, nan=worst, posinf=worst).clamp_min(0).numpy()


def fidelity_of(order: ImageOrder | None, seen: Seen) -> Fidelity | None:
    """How close the answers are to the dense model's on the whole split; None without a reference.

    order: in which images were drawn with unequal chances; None, or if all were seen: plain means count.
    """
    if seen.agrees is None or seen.changed is None or seen.divergence is None:
        return None
    if order is None or len(seen) == len(order):
        images = len(seen)
        agreement, divergence = float(seen.agrees.mean()), float(seen.divergence.mean())
        error, changed = float(seen.divergence.std() / np.sqrt(images)), float(seen.changed.mean())
    else:
        images = len(seen)
        agreement = 1 - mean_difference(order, (~seen.agrees).astype(float))[0]
        divergence, error = mean_difference(order, seen.divergence)
        changed = mean_difference(order, seen.changed.astype(float))[0]
    # an image that changed says little if it is the only one: one of LEAST_ODDS is always possible
    changed = min(max(changed, MIN_ODDS / images), 1.0)
    return Fidelity(min(max(agreement, 0.0), 1.0), max(divergence, 0.0), error, float(np.sqrt(changed / images)))
