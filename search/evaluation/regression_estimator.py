"""What few images say of a schedule's accuracy over all of them, for a sampler to learn from: quick, and no interval.

Which images other schedules got right tells beforehand which ones this one will. Their answers, weighted to fit the
images seen, predict every image; the mean of the predictions is corrected by how far they were off on the images
seen. So only what the others do not explain is uncertain: by the standard error, on one study of the demo, half the
variance that is left when the dense model alone predicts.

Source: Sarndal, Swensson and Wretman, "Model Assisted Survey Sampling", 1992, chapter 6 (the regression estimator);
Hoerl and Kennard, "Ridge regression", Technometrics 12 (1970), for the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.evaluation.image_sampling import Floats, ImageOrder
from search.evaluation.racing import Bits, mean_difference

SHRINKAGE = 5.0  # images: what pulls the others' weights to nought; from 320 images on, 2 to 20 did equally well
MIN_ODDS = 0.5  # images


def guess(
    order: ImageOrder, correct: Bits, dense: Bits, others: NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Accuracy over all images from those seen, and its standard error.

    correct: [images seen]. dense: [M] of the dense model. others: [T, M] of other schedules. All in the order of
    `order`.
    """
    expected = dense.astype(float) if others is None else _predicted(order, correct, dense, others)
    mean, error = mean_difference(order, correct - expected[: len(correct)])
    # images that all agree say little about how rare the others are: one of LEAST_ODDS would be a change
    return float(expected.mean()) + mean, max(error, MIN_ODDS / len(correct))


def _predicted(order: ImageOrder, correct: Bits, dense: Bits, others: NDArray[np.bool_]) -> Floats:
    """[M] dense answers plus the combination of the others' changes to them that fits the images seen best."""
    base, seen = dense.astype(float), len(correct)
    changes = others - base
    shares = 1 / order.weights[:seen]  # of all images, that each image seen stands for
    shares /= shares.mean()
    weighted = changes[:, :seen] * shares
    gram = weighted @ changes[:, :seen].T
    gram[np.diag_indices_from(gram)] += SHRINKAGE
    fitted = np.linalg.solve(gram, weighted @ (correct - base[:seen]))
    return np.asarray(base + fitted @ changes)
