"""What a stage costs: realised over ideal speed-up, ours and the peers' at (nearly) equal FLOPs.

    python -m tests.benchmarks.stage [--model deit_small_patch16_224] [--batch 16 32] [--threads 1] [--repeats 7]

Ideal is the ratio of FLOPs, dense over pruned. Realised is the median ratio of interleaved passes of the dense and
the pruned model, spread half the interquartile range of the ratios over it. Realised over ideal of 1.0 means that a
schedule delivers all it promises; unchunked is the same where stages do not run in cache-sized chunks. Schedules
drop at blocks 2, 5 and 8; ToMe merges in every block, as many tokens as come closest to zero-tprune's FLOPs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pruning.model
from pruning import Schedule, Stage, count_flops
from pruning.backbones import load_backbone
from pruning.model import PrunedViT
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.throughput import REPEATS, PairedTiming, time_against
from tests.benchmarks.table import Table, make_parser
from tests.benchmarks.tome import ToMe, closest_merges, tome_flops

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
}


def shape(method: str, keep: float = KEEP) -> Schedule:
    return Schedule([Stage(block, keep, VOTES) for block in BLOCKS], method)


def rivals(backbone: nn.Module, keep: float) -> dict[str, tuple[nn.Module, int]]:
    """Each method's model, by name, and its FLOPs."""
    found: dict[str, tuple[nn.Module, int]] = {}
    for method in ("zero-tprune", "cls-attention", "random"):
        vit = PrunedViT(backbone, shape(method, keep)).eval()
        found[method] = vit, count_flops(vit)
    merges = closest_merges(backbone, found["zero-tprune"][1])
    found["ToMe"] = ToMe(backbone, merges).eval(), tome_flops(backbone, merges)
    return found


def time_unchunked(dense: nn.Module, other: nn.Module, images: Tensor, repeats: int) -> PairedTiming | None:
    """The same with stages that take the whole batch at once; None for what never takes it in chunks."""
    if not isinstance(other, PrunedViT) or images.device.type != "cpu":
        return None
    chunked = pruning.model.CACHE_BYTES
    pruning.model.CACHE_BYTES = NO_CHUNKS
    try:
        return time_against(dense, other, images, repeats)
    finally:
        pruning.model.CACHE_BYTES = chunked


def compare(dense: nn.Module, other: nn.Module, ideal: float, images: Tensor, repeats: int) -> dict[str, Any]:
    timing = time_against(dense, other, images, repeats)
    whole = time_unchunked(dense, other, images, repeats)
    return {
        "ideal": ideal,
        "realised": timing.speedup,
        "realised/ideal": timing.speedup / ideal,
        "spread": timing.spread,
        "unchunked": None if whole is None else whole.speedup / ideal,
        "dense images/s": timing.dense_images_per_s,
        "merges": list(other.merges) if isinstance(other, ToMe) else None,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--keep", type=float, default=KEEP, help="of the patch tokens, at each of the three stages")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="pairs of passes for each row, at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    backbone = load_backbone(arguments.model, "random")  # what is computed does not depend on the weights
    models = rivals(backbone.model.to(device, DTYPES[arguments.dtype]), arguments.keep)
    dense = PrunedViT(backbone.model).eval()
    dense_flops = count_flops(dense)
    table = Table("stage", arguments, device, COLUMNS)
    for batch in arguments.batch:
        images = torch.randn(batch, *backbone.family.image_shape, device=device)
        for name, (model, flops) in models.items():
            row = compare(dense, model, dense_flops / flops, images, arguments.repeats)
            table.add({"batch": batch, "method": name, "GFLOPs": flops / 1e9, **row})
    table.finish()


if __name__ == "__main__":
    main()
