"""What is found out once a study and then fixed, and the first of these facts: the number format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pruning.checkpoints.names import RAW
from pruning.model import PrunedViT
from search.config.sections import RuntimeSpec
from search.evaluation.data.splits import Split
from search.evaluation.device import WORTH_IT, bfloat16_is_fast, synchronize
from search.evaluation.host_lock import exclusive
from search.evaluation.throughput import undisturbed
from search.types import to_record

CHECKED_IMAGES = 128  # of the search split, at least, for the choice of the number format ...
CHECKED_BATCHES = 3  # ... and at least so many batches, the first of which warms up
SAME_ANSWERS = 0.97  # share of the images on which both formats must answer alike


@dataclass(frozen=True)
class Calibration:
    """What is found out once a study and then fixed. Plain data by `to_dict`.

    dtype_reason: why this format. dense_images_per_s: the reference that speedups are multiplied with.
    strata: which images pruning is likely to change, and so are seen first. profile_key, strata_key: what these hold
    for, so that other studies may take them over; "" in studies from before that, and without a profile.
    profile_from: the study that took the profile, if it was another. disturbed: why the profile, or the dense model's
    speed where there is none, cannot be relied on; "" if it can. weights_key: where in their file the weights stood;
    studies from before there was a choice have the raw ones. dense_latency: of the dense model in float32 where the
    study is deployed, as of `search.types.Latency`; None where it is not.
    """

    dtype: str
    dtype_reason: str
    hardware: str
    weights: str  # fingerprint
    images: str  # fingerprint
    dense_images_per_s: float
    profile: Mapping[str, Any] | None
    strata: str = ""  # of the search images, by `pack_strata`; "" in studies from before there were any
    profile_key: str = ""
    strata_key: str = ""
    profile_from: str = ""
    disturbed: str = ""
    weights_key: str = RAW
    dense_latency: Mapping[str, Any] | None = None

    @property
    def precision_gain(self) -> float | None:
        """How many times as fast the unpruned model is at the deployment's precision as in float32; None for 1."""
        gain = (self.profile or {}).get("gain", 1.0)
        return None if gain == 1 else gain

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`. Fields that a later release added are ignored."""
        return to_record(cls, data)


def choose_dtype(
    runtime: RuntimeSpec, cast: Callable[[str], PrunedViT], split: Split, device: torch.device
) -> tuple[str, str]:
    """The number format and why: bfloat16 where it is faster here and the dense model's answers stay the same.

    cast: the model in a format. Where the spec asks for a format, nothing is run.
    """
    if runtime.dtype != "auto":
        return runtime.dtype, "asked for"
    if not bfloat16_is_fast(device):
        return "float32", "this hardware has no fast bfloat16"
    models = cast("float32"), cast("bfloat16")
    (full, narrow), disturbed = undisturbed(device, lambda: _answers(models, split, runtime.batch_size, device))
    gain, same = full.seconds / narrow.seconds, float((full.classes == narrow.classes).mean())
    images = min(len(full.classes), len(split))
    if same < SAME_ANSWERS:
        return "float32", f"bfloat16 changes {1 - same:.1%} of the dense model's answers, of {images} images"
    doubt = f"; {disturbed}" if disturbed else ""
    if gain < WORTH_IT:
        return "float32", f"bfloat16 is only {gain:.2f} times as fast{doubt}"
    return "bfloat16", f"{gain:.2f} times as fast{doubt}; {same:.1%} of {images} dense answers as in float32"


@dataclass(frozen=True)
class Answers:
    """The dense model's classes on the first images, and the seconds of its fastest batch after the first."""

    classes: NDArray[np.int64]
    seconds: float


@torch.inference_mode()
def _answers(models: Sequence[PrunedViT], split: Split, batch_size: int, device: torch.device) -> list[Answers]:
    """Of each model; they take turns, so that a drift of the machine's speed favours none."""
    classes: list[list[NDArray[np.int64]]] = [[] for _ in models]
    seconds: list[list[float]] = [[] for _ in models]
    with exclusive():
        for images in _first_batches(split, batch_size):
            for number, model in enumerate(models):
                began = time.perf_counter()
                classes[number].append(model(images.to(device)).argmax(-1).cpu().numpy())
                synchronize(device)
                seconds[number].append(time.perf_counter() - began)
    return [Answers(np.concatenate(c), min(s[1:])) for c, s in zip(classes, seconds, strict=True)]


def _first_batches(split: Split, size: int) -> Iterator[torch.Tensor]:
    """Full batches; a split too small for them begins again."""
    count = max(CHECKED_BATCHES, -(-CHECKED_IMAGES // size))
    for number in range(count):
        yield split.cycle(number * size, (number + 1) * size)
