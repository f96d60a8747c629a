"""What a stage costs: realised over ideal speed-up, and what running it in cache-sized chunks brings.

    python -m tests.benchmarks.stage [--model deit_small_patch16_224] [--batch 16 32] [--threads 1]

Ideal is the ratio of FLOPs, dense over pruned. Realised is the median ratio of interleaved passes of the dense and
the pruned model. 1.0 means that the schedule delivers all it promises.
"""

from __future__ import annotations

import argparse

import torch

import pruning.model
from pruning import Schedule, Stage, count_flops
from pruning.backbones import load_backbone
from pruning.model import PrunedViT
from search.evaluation.device import DTYPES
from search.evaluation.throughput import time_pairs
from tests.benchmarks.hardware import hardware_line

KEEP = 0.7  # at blocks 2, 5, 8: about 3.0 of DeiT-S's 4.6 GFLOPs
NO_CHUNKS = 2**62


def shape(method: str) -> Schedule:
    return Schedule([Stage(block, KEEP, 5) for block in (2, 5, 8)], method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, "random")
    vit = PrunedViT(backbone.model.to(DTYPES[arguments.dtype]))
    print(f"{arguments.model}, {arguments.dtype}, {hardware_line(torch.device('cpu'))}\n")
    print("| batch | method | GFLOPs | ideal | realised | realised/ideal | unchunked | spread |")
    print("|---|---|---|---|---|---|---|---|")
    chunked = pruning.model.CACHE_BYTES
    for batch in arguments.batch:
        images = torch.randn(batch, *backbone.family.image_shape)
        for method in ("zero-tprune", "cls-attention", "random"):
            schedule = shape(method)
            flops = count_flops(vit, schedule)
            ideal = count_flops(vit, Schedule()) / flops
            timing = time_pairs(vit, schedule, images)
            pruning.model.CACHE_BYTES = NO_CHUNKS
            whole = time_pairs(vit, schedule, images)
            pruning.model.CACHE_BYTES = chunked
            print(
                f"| {batch} | {method} | {flops / 1e9:.3f} | {ideal:.3f} | {timing.speedup:.3f} "
                f"| {timing.speedup / ideal:.3f} | {whole.speedup / ideal:.3f} | {100 * timing.spread:.1f}% |",
                flush=True,
            )


if __name__ == "__main__":
    main()
