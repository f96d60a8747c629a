"""What a schedule loses in accuracy, by how far its answers diverge from the dense model's and by what it got right.

Of a few hundred images, one more or less right is a matter of chance: schedules half a point apart cannot be told by
counting. The divergence of the class probabilities uses all that an image's logits say and is known to a tenth of
itself. What it means in accuracy is learnt from the study's own trials: loss = a divergence^b. Each schedule's loss is
then estimated from both, weighted by how well either is known (empirical Bayes: Efron and Morris, "Stein's estimation
rule and its competitors", JASA 68 (1973)).

A relation says nothing of divergences beyond those that it was seen in, nor of a schedule whose count refutes it: there
what was counted stands alone. Where all losses are near zero, or below it by luck, the relation would else take
schedules that get nothing right for as good as the dense model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_TRIALS = 8  # before a relation is seen in them
# of the divergence, small ones of which cost less than their share; the plainest first, for where all fit alike
EXPONENTS = sorted(np.linspace(0.6, 2.2, 17), key=lambda exponent: abs(exponent - 1))
MAX_LOSS = 0.3  # of accuracy: beyond, a model knows little any more, and the relation bends
FLOOR = 0.001  # accuracy: what no relation is more exact than
SPREADS = (0.1, 0.6)  # of losses about the relation, as a share of it: the least and the most that is believed
REFUTED = 4.0  # standard errors of its difference from a count, from which on the relation does not hold for a schedule


@dataclass(frozen=True)
class LossModel:
    """loss = scale divergence^exponent, up to `spread` of itself.

    scale_error: its standard error. reach: the largest divergence that the relation was seen in.
    """

    scale: float
    exponent: float
    spread: float
    scale_error: float = 0.0
    reach: float = math.inf

    def expected(self, divergence: float) -> float:
        """Loss of accuracy, as a fraction."""
        return min(float(self.scale * max(divergence, 0.0) ** self.exponent), 1.0)

    def accuracy(
        self, dense: float, accuracy: float, loss_error: float, divergence: float, divergence_error: float
    ) -> tuple[float, float]:
        """The accuracy and its standard error, of `accuracy` counted beside the dense model's on the same images."""
        loss, error = self.estimate(dense - accuracy, loss_error, divergence, divergence_error)
        return max(dense - loss, 0.0), error

    def estimate(
        self, loss: float, loss_error: float, divergence: float, divergence_error: float
    ) -> tuple[float, float]:
        """The loss and its standard error, from the loss that was counted and the one that the divergence suggests."""
        expected = self.expected(divergence)
        relative = self.exponent * divergence_error / max(divergence, 1e-9)
        prior = (self.spread**2 + min(relative, 1.0) ** 2) * expected**2 + FLOOR**2
        prior += (self.scale_error * divergence**self.exponent) ** 2
        counted = max(loss_error, FLOOR) ** 2
        if divergence > self.reach or (loss - expected) ** 2 > REFUTED**2 * (prior + counted):
            return loss, float(np.sqrt(counted))
        weight = prior / (prior + counted)
        return weight * loss + (1 - weight) * expected, float(np.sqrt(prior * counted / (prior + counted)))


def fit_loss_model(
    losses: Sequence[float], loss_errors: Sequence[float], divergences: Sequence[float]
) -> LossModel | None:
    """By weighted least squares over the exponents; None for fewer than MIN_TRIALS schedules that diverge at all.

    losses: accuracy below the dense model's, on the same images; loss_errors: their standard errors.
    """
    rows = zip(losses, loss_errors, divergences, strict=True)
    table = np.array([row for row in rows if row[2] > 0 and row[0] < MAX_LOSS], dtype=float)
    if len(table) < MIN_TRIALS:
        return None
    loss, error, divergence = table.T
    variance = error**2 + FLOOR**2 + (SPREADS[0] * loss) ** 2
    best: tuple[float, float, float, float] | None = None
    for exponent in EXPONENTS:
        power = divergence**exponent
        information = float((power**2 / variance).sum())
        scale = max(float((power * loss / variance).sum()) / information, 0.0)
        misfit = float(((loss - scale * power) ** 2 / variance).sum())
        if best is None or misfit < best[0]:
            best = misfit, scale, float(exponent), information**-0.5
    assert best is not None
    _, scale, exponent, scale_error = best
    expected = scale * divergence**exponent
    beyond = ((loss - expected) ** 2 - error**2).sum() / max(float((expected**2).sum()), 1e-12)
    spread = float(np.sqrt(np.clip(beyond, SPREADS[0] ** 2, SPREADS[1] ** 2)))
    return LossModel(scale, exponent, spread, scale_error, float(divergence.max()))
