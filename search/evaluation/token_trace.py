"""Which patches of an image survive each stage of a schedule, and what the model answers with and without pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from pruning.backbone_names import DEMO
from pruning.backbones import Backbone
from pruning.config import Config, load_backbone_of
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED
from pruning.tokens import Tokens
from search.errors import InputError
from search.evaluation.data.pixels import Pixels
from search.evaluation.data.preprocessing import Preprocessing
from search.evaluation.data.sources import DemoImages
from search.evaluation.data.splits import Split, open_images
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.reproduce import spec_of


@dataclass(frozen=True)
class Survivors:
    """Of one image after one stage. block: the stage's. places: [K] of the kept patches in the grid, row by row.

    sizes: [K] how many patches each stands for, after merging; None where nothing merges.
    """

    block: int
    places: NDArray[np.int64]
    sizes: NDArray[np.float32] | None


@dataclass(frozen=True)
class Answer:
    """The likeliest class, in words, and its probability."""

    words: str
    probability: float


@dataclass(frozen=True)
class TokenTrace:
    """One image under a schedule. pixels: [C, H, W] uint8, as preprocessed. grid: (rows, columns) of patches.

    label: the right class in words; "" if it is not known.
    """

    name: str
    pixels: Pixels
    grid: tuple[int, int]
    stages: tuple[Survivors, ...]
    dense: Answer
    pruned: Answer
    label: str = ""


def trace_tokens(model: PrunedViT, split: Split, names: Sequence[str], words: Callable[[int], str]) -> list[TokenTrace]:
    """Run the images of `split` through `model` stage by stage. names: of each image. words: of a class index."""
    device = next(model.parameters()).device
    images = split.batch(0, len(split)).to(device)
    stages, pruned = _walk(model, images)
    dense = PrunedViT(model.backbone, UNTOUCHED).eval()
    with torch.inference_mode():
        answers = [_answers(logits, words) for logits in (dense(images), pruned)]
    rows, columns = model.architecture.model.patch_embed.grid_size
    return [
        TokenTrace(
            name=names[i],
            pixels=np.array(split.pixels[i]),
            grid=(int(rows), int(columns)),
            stages=tuple(_of_image(block, tokens, i, model.family.prefix) for block, tokens in stages),
            dense=answers[0][i],
            pruned=answers[1][i],
            label="" if split.labels is None else words(int(split.labels[i])),
        )
        for i in range(len(split))
    ]


@torch.inference_mode()
def _walk(model: PrunedViT, images: Tensor) -> tuple[list[tuple[int, Tokens]], Tensor]:
    """The tokens behind each stage with its block, and the logits."""
    tokens, start, stages = Tokens(model.embed(images)), 0, []
    seeds = model.seeds(images)
    for plan in model.plans:
        tokens = model.advance(tokens, start, plan.block + 1, seeds)
        start = plan.block + 1
        stages.append((plan.block, tokens))
    return stages, model.logits(tokens, start, seeds)


def _of_image(block: int, tokens: Tokens, image: int, prefix: int) -> Survivors:
    sizes = None if tokens.sizes is None else tokens.sizes[image, prefix:].float().cpu().numpy()
    return Survivors(block, tokens.places(prefix)[image].cpu().numpy(), sizes)


def _answers(logits: Tensor, words: Callable[[int], str]) -> list[Answer]:
    best = logits.float().softmax(-1).max(-1)
    return [Answer(words(int(index)), float(value)) for value, index in zip(best.values, best.indices, strict=True)]


def class_words(backbone: Backbone) -> Callable[[int], str]:
    """What to call a class: ImageNet's and the demo's by name, others by number."""
    if backbone.name == DEMO:
        return lambda index: DemoImages.names[index].partition("/")[0]
    info = ImageNetInfo("imagenet-1k")
    if backbone.num_classes == info.num_classes():  # type: ignore[no-untyped-call]
        return lambda index: str(info.index_to_description(index)).split(",")[0]
    return lambda index: f"class {index}"


def read_images(paths: Sequence[Path], backbone: Backbone) -> Split:
    """Image files, preprocessed as timm does to evaluate this backbone. Raises InputError naming the file."""
    preprocess = Preprocessing(backbone.data_config)
    pixels = np.stack([_read(path, preprocess) for path in paths])
    channels = len(pixels[0])
    mean, std = (torch.tensor(backbone.data_config[k]).expand(channels).reshape(-1, 1, 1) for k in ("mean", "std"))
    return Split("files", pixels, None, mean, std)


def _read(path: Path, preprocess: Preprocessing) -> Pixels:
    try:
        with Image.open(path) as image:
            return preprocess(image)
    except FileNotFoundError:
        raise InputError(path, "no such image", remedy="check the path") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(path, f"must be an image that can be decoded: {reason}") from None


def anatomies(
    config: Config, place: Path, files: Sequence[Path] = (), data: str | None = None, count: int = 4
) -> list[TokenTrace]:
    """Images under an exported configuration: `files`, else `count` of its search images, or of the folder `data`.

    place: of the configuration, for messages. Raises InputError, ScheduleError or WeightsError.
    """
    if not config.schedule.stages:
        raise InputError("schedule", "must drop patches to show which survive", "the dense model", source=place)
    spec = spec_of(config, place, data) if data is not None or not files else None
    backbone = load_backbone_of(config, str(place))
    model = _model(config, place, backbone)
    if spec is None:
        return trace_tokens(model, read_images(files, backbone), [path.name for path in files], class_words(backbone))
    images = open_images(spec.data, spec.objectives, backbone)
    if not 1 <= count <= len(images.search_indices):
        raise InputError("--count", f"must be in 1..{len(images.search_indices)}, the images there are", count)
    chosen = replace(images, search_indices=images.search_indices[:count])
    names = [Path(images.source.name(int(index))).name for index in chosen.search_indices]
    return trace_tokens(model, chosen.search(), names, class_words(backbone))


def _model(config: Config, place: Path, backbone: Backbone) -> PrunedViT:
    dtype = config.runtime.get("dtype", "float32")
    if dtype not in DTYPES:
        raise InputError("runtime.dtype", f"must be one of {', '.join(DTYPES)}", repr(dtype), source=place)
    device = choose_device(str(config.runtime.get("device", "auto")))
    return PrunedViT(backbone.model.to(device, DTYPES[dtype]), config.schedule).eval()
