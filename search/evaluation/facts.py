"""What is found out once a study and then fixed, and the first of these facts: the number format.

Knows models, splits and clocks. Ignores schedules, studies' limits and SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pruning.model import PrunedViT
from search.evaluation.data import Split
from search.evaluation.device import WORTH_IT, bfloat16_is_fast, synchronize
from search.study.spec import RuntimeSpec

CHECKED_IMAGES = 128  # of the search split, at least, for the choice of the number format ...
CHECKED_BATCHES = 3  # ... and at least so many batches, the first of which warms up
SAME_ANSWERS = 0.97  # share of the images on which both formats must answer alike


@dataclass(frozen=True)
class Facts:
    """What is found out once a study and then fixed. Plain data by `to_dict`.

    dtype_reason: why this format. dense_images_per_s: the reference that speedups are multiplied with.
    strata: which images pruning is likely to change, and so are seen first.
    """

    dtype: str
    dtype_reason: str
    hardware: str
    weights: str  # fingerprint
    images: str  # fingerprint
    dense_images_per_s: float
    profile: Mapping[str, Any] | None
    strata: str = ""  # of the search images, by `pack_strata`; "" in studies from before there were any

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    full, full_s = _answers(cast("float32"), split, runtime.batch_size, device)
    narrow, narrow_s = _answers(cast("bfloat16"), split, runtime.batch_size, device)
    gain, same = full_s / narrow_s, float((full == narrow).mean())
    if gain < WORTH_IT:
        return "float32", f"bfloat16 is only {gain:.2f} times as fast"
    if same < SAME_ANSWERS:
        return "float32", f"bfloat16 changes {1 - same:.1%} of the dense model's answers, of {len(full)} images"
    return (
        "bfloat16",
        f"{gain:.2f} times as fast; {same:.1%} of the dense model's answers as in float32, of {len(full)}",
    )


@torch.inference_mode()
def _answers(
    model: PrunedViT, split: Split, batch_size: int, device: torch.device
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], float]:
    """The dense model's classes on the first images, and the seconds of the fastest batch after the first."""
    classes, seconds = [], []
    for images in _first_batches(split, batch_size):
        began = time.perf_counter()
        classes.append(model(images.to(device)).argmax(-1).cpu().numpy())
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return np.concatenate(classes), min(seconds[1:])


def _first_batches(split: Split, size: int) -> Iterator[torch.Tensor]:
    """Full batches; a split too small for them begins again."""
    count = max(CHECKED_BATCHES, -(-CHECKED_IMAGES // size))
    for number in range(count):
        yield split.take(np.arange(number * size, (number + 1) * size) % len(split))
