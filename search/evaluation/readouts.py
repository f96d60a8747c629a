"""How class scores come of what the model says of an image: its logits, or its vector's likeness to known vectors.

Features are compared by their cosine. Sources: Wu, Xiong, Yu and Lin, "Unsupervised feature learning via non-parametric
instance discrimination", CVPR 2018, section 3.4 (the vote of the nearest, weighted by exp(cosine / 0.07); DINO's and
DINOv2's evaluation); Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021
(zero-shot, with logits of 100 times the cosine).
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 0.07  # of a cosine, in votes and in the likeness to images
SCALE = 100.0  # of a cosine with a text: CLIP's own, at which its training stops
UNDECIDED = 0.01  # share of a vote that all classes have, so that none is impossible


class Readout:
    """The model's output as it is: a classifier's own scores.

    classes: how many scores an image has. reads_features: whether of the pooled features, which the last layer gets,
    instead of the model's output.
    """

    reads_features = False

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs [B, D] -> scores [B, classes], whose softmax are the class probabilities; not finite where the
        outputs are not."""
        return outputs


class Features(Readout):
    """The pooled features as they are."""

    reads_features = True


class TextLikeness(Readout):
    """The class is that whose vector, a text embedding, is nearest to the image's."""

    scale = SCALE

    def __init__(self, vectors: Tensor) -> None:
        """vectors: [classes, D]."""
        super().__init__(len(vectors))
        self._vectors = normalised(vectors)

    def scores(self, outputs: Tensor) -> Tensor:
        return self.scale * normalised(outputs) @ self._vectors.T


class ImageLikeness(TextLikeness):
    """The class is the nearest image of a gallery: the vectors are its features."""

    reads_features, scale = True, 1 / TEMPERATURE


class NearestNeighbours(Readout):
    """The class is what the nearest images of a gallery vote for, the nearer with more weight."""

    reads_features = True

    def __init__(self, gallery: Tensor, labels: Tensor, classes: int, k: int) -> None:
        """gallery: features [G, D]. labels: [G] class indices. k: at most G."""
        super().__init__(classes)
        self._gallery, self._labels, self._k = normalised(gallery), labels.cpu(), k

    def scores(self, outputs: Tensor) -> Tensor:
        likeness = normalised(outputs) @ self._gallery.T
        nearest = likeness.topk(self._k)
        weights, voters = (nearest.values.cpu() / TEMPERATURE).softmax(-1), nearest.indices.cpu()
        votes = torch.zeros(len(weights), self.classes)  # on the CPU, where sums are always in the same order
        votes.scatter_add_(1, self._labels[voters], weights)
        return ((1 - UNDECIDED) * votes + UNDECIDED / self.classes).log()


def normalised(vectors: Tensor) -> Tensor:
    """[B, D] in float32, each of length 1."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
