"""What a source of models is: how its files are known, how they are read, and what its folders say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning.errors import WeightsError

State = dict[str, Tensor]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# in this order `transformers` looks for them; an index stands for the shards that it names
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@dataclass(frozen=True)
class Blueprint:
    """How to build a backbone, and what else its origin says of it.

    build: makes the model, with any weights; takes timm's options (img_size, num_classes, global_pool, device).
    preprocessing: timm's facts of it (mean, std, interpolation, crop_pct, crop_mode), empty for those of timm's model.
    of_weights: of the same facts, what the weights say themselves that were read; they go before `preprocessing`.
    class_names: of the classifier's classes in order, () where they are not known.
    weights: the file of its own weights. download: fetches them; None for both if timm is to.
    """

    source: str
    build: Callable[..., nn.Module]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    of_weights: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    weights: Path | None = None
    download: Callable[[], State] | None = None


Listed = tuple[Callable[..., nn.Module], tuple[str, ...]]


@dataclass(frozen=True)
class Source:
    """One library's way to save a model.

    first_weight: pattern of the name of one weight that each of its files holds, behind what wrappers put before it,
        which is the group `prefix`.
    convert: weights under the source's names, and the model that they are for -> weights under timm's names. What it
        does not know it leaves, to be refused.
    options: what the weights themselves say of the model to build.
    by_name: the blueprint of `NAME/model`; None if the source has no such names.
    read_folder: the blueprint that a folder's configuration describes; None if it holds none of this source's.
    listed: what `ztp backbones` shows of it: its names, with how to build each and what to say of its weights.
    needs: of a bare file, what else must be known of its model: the words of a refusal where nothing says it.
    bare_images: facts of the preprocessing that a bare file of it wants under a name of another source's.
    interpolates: whether `convert` fits position embeddings to the model's image size.
    """

    name: str
    first_weight: str
    convert: Callable[[State, nn.Module], State]
    options: Callable[[State], dict[str, Any]]
    by_name: Callable[[str], Blueprint] | None = None
    read_folder: Callable[[Path], Blueprint | None] = lambda folder: None
    listed: Callable[[], Mapping[str, Listed]] = dict
    needs: str = ""
    bare_images: Callable[[str], Mapping[str, Any]] | None = None
    interpolates: bool = False


def read_json(path: Path) -> dict[str, Any] | None:
    """A configuration; None if the file is not there. Raises WeightsError for one that cannot be read."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} must be JSON, got a file that cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content


def first_file(folder: Path, *names: str) -> Path | None:
    """The first of them that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def rename(name: str, names: Sequence[tuple[str, str]]) -> str:
    """The name that the first pattern that it begins with makes of it; itself if there is none."""
    for pattern, replacement in names:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return name


def crop_share(crop: int, resized: int) -> float:
    """timm's `crop_pct`: what it divides the crop by, rounded down, for the size before it."""
    share = crop / resized
    return share if math.floor(crop / share) == resized else math.nextafter(share, 0)
