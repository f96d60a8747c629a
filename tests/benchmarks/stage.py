"""What a stage costs: realised over ideal speed-up, ours and the peers' at (nearly) equal FLOPs.

    python -m tests.benchmarks.stage [--model deit_small_patch16_224] [--batch 16 32] [--threads 1] [--repeats 7]
    python -m tests.benchmarks.stage --model deit_tiny_patch16_224 --dtype bfloat16 --blocks 0 1 2 3 4 5 6 --keep 0.8

Ideal is the ratio of FLOPs, dense over pruned. Realised is the median ratio of interleaved passes of the dense and
the pruned model, spread half the interquartile range of the ratios over it. Realised over ideal of 1.0 means that a
schedule delivers all it promises; unchunked is the same where stages do not run in cache-sized chunks, and merging all
where every token is computed as a mean, also those that nothing joins. tome merges in every block but the last, as many
tokens as come closest to zero-tprune's FLOPs: as our method, and written plainly as it is published (`plain_tome`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import pruning.merging
import pruning.model
from pruning import Schedule, Stage, count_flops
from pruning.architectures import describe
from pruning.backbones import load_backbone
from pruning.errors import ScheduleError
from pruning.flops import FlopCounter
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.throughput import REPEATS, PairedTiming, time_against
from tests.benchmarks.plain_tome import PlainToMe
from tests.benchmarks.table import Table, make_parser

BLOCKS, VOTES = (2, 5, 8), 5
KEEP = 0.7  # 2.9 of DeiT-S's 4.6 GFLOPs
NO_CHUNKS = 2**62
COLUMNS = {
    "batch": "",
    "method": "",
    "GFLOPs": ".3f",
    "ideal": ".3f",
    "realised": ".3f",
    "realised/ideal": ".3f",
    "spread": ".1%",
    "unchunked": ".3f",
    "merging all": ".3f",
}


def shape(method: str, blocks: Sequence[int], keep: float) -> Schedule:
    return Schedule([Stage(block, keep, VOTES) for block in blocks], method)


def merging(tokens: int, merges: Sequence[int]) -> Schedule:
    """tome as published, between attention and MLP, merging merges[i] tokens in block i."""
    stages = []
    for block, count in enumerate(merges):
        stages.append(Stage(block, min((tokens - count + 0.5) / tokens, 1.0)))  # a half: int() must not lose a token
        tokens -= count
    return Schedule(stages, "tome", {"drop": "before-mlp"})


def closest_merging(backbone: nn.Module, flops: int) -> tuple[int, ...]:
    """The merging whose FLOPs come closest to `flops`: r tokens in every block, and one more in some run of blocks.

    The run makes up for the coarse step of a constant r: 5% of DeiT-S.
    """
    counter, family = FlopCounter(backbone), describe(backbone)
    blocks = family.depth - 1
    runs = [(0, 0), *itertools.combinations(range(blocks + 1), 2)]
    found = []
    for constant in range(family.tokens // blocks):
        for start, stop in runs:
            merges = tuple(constant + (start <= block < stop) for block in range(blocks))
            with suppress(ScheduleError):  # more than half of the tokens of some block
                found.append((abs(counter.count(merging(family.tokens, merges)) - flops), merges))
    return min(found)[1]


def rivals(backbone: VisionTransformer, blocks: Sequence[int], keep: float) -> dict[str, tuple[nn.Module, Schedule]]:
    """By name, each model and the schedule that it follows."""
    schedules = {method: shape(method, blocks, keep) for method in ("zero-tprune", "cls-attention", "random")}
    flops = count_flops(backbone, schedules["zero-tprune"])
    merges = closest_merging(backbone, flops)
    schedules["tome"] = merging(describe(backbone).tokens, merges)
    models: dict[str, nn.Module] = {name: PrunedViT(backbone, each).eval() for name, each in schedules.items()}
    models["tome, plain"] = PlainToMe(backbone, merges).eval()
    return {name: (model, schedules[name.removesuffix(", plain")]) for name, model in models.items()}


@contextmanager
def swapped(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """`module.name` is `value` meanwhile."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def time_swapped(
    dense: nn.Module, other: nn.Module, images: Tensor, repeats: int, module: ModuleType, name: str, value: object
) -> PairedTiming | None:
    """The same otherwise; None for what is not ours, or not on a CPU."""
    if images.device.type != "cpu" or not isinstance(other, PrunedViT):
        return None
    with swapped(module, name, value):
        return time_against(dense, other, images, repeats)


def compare(dense: nn.Module, other: nn.Module, ideal: float, images: Tensor, repeats: int) -> dict[str, Any]:
    timing = time_against(dense, other, images, repeats)
    whole = time_swapped(dense, other, images, repeats, pruning.model, "CACHE_BYTES", NO_CHUNKS)
    everywhere = time_swapped(dense, other, images, repeats, pruning.merging, "is_watched", lambda tensor: True)
    return {
        "ideal": ideal,
        "realised": timing.speedup,
        "realised/ideal": timing.speedup / ideal,
        "spread": timing.spread,
        "unchunked": None if whole is None else whole.speedup / ideal,
        "merging all": None if everywhere is None else everywhere.speedup / ideal,
        "dense images/s": timing.dense_images_per_s,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS, help="that have a stage")
    parser.add_argument("--keep", type=float, default=KEEP, help="of the patch tokens, at each stage")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="pairs of passes for each row, at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    backbone = load_backbone(arguments.model, "random")  # what is computed does not depend on the weights
    dtype = DTYPES[arguments.dtype]
    models = rivals(backbone.model.to(device, dtype), arguments.blocks, arguments.keep)
    dense = PrunedViT(backbone.model, UNTOUCHED).eval()
    dense_flops = count_flops(dense)
    table = Table("stage", arguments, device, COLUMNS)
    for batch in arguments.batch:
        images = torch.randn(batch, *backbone.family.image_shape, device=device, dtype=dtype)
        for name, (model, schedule) in models.items():
            flops = count_flops(dense, schedule)
            row = compare(dense, model, dense_flops / flops, images, arguments.repeats)
            kept = [plan.kept for plan in schedule.plan(backbone.family.tokens)]
            table.add({"batch": batch, "method": name, "GFLOPs": flops / 1e9, **row, "kept": kept})
    table.finish()


if __name__ == "__main__":
    main()
