"""Images a second on an accelerator, at the FLOPs of the paper's main budget (34.7% fewer than dense).

    python -m tests.benchmarks.accelerator [--models deit_small_patch16_224 deit_base_patch16_224] [--batch 256]
        [--dtypes bfloat16 float16] [--modes eager compile graphs] [--device cuda]

Dense, ToMe (merging in every block), zero-tprune as the paper has it and as it is by default, with random weights: what
is computed does not depend on them. Realised over ideal of 1.0 means that a schedule delivers all that its FLOPs
promise. The paper reports +45.3% at these FLOPs on an A100, 0.949 of the ideal. "compile" is `torch.compile`, "graphs"
captures the eager model in a CUDA graph. On a CPU "eager" and "compile" run, for a test.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruning.backbones import Backbone, load_backbone
from pruning.flops import FlopCounter
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.evaluation.compare.entries import Contender, nearest_below, paper_blocks, read_contenders
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.throughput import REPEATS, time_against
from tests.benchmarks.table import Table, make_parser

SAVED = 0.347
COLUMNS = {
    "model": "",
    "dtype": "",
    "mode": "",
    "schedule": "",
    "GFLOPs": ".3f",
    "images/s": ".0f",
    "speed-up": ".3f",
    "realised/ideal": ".3f",
    "spread": ".1%",
}


def compiled(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own parts
        run: Callable[[Tensor], Tensor] = torch.compile(model)
        with torch.inference_mode():
            run(images)
    return run


def captured(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """The model's kernels on these very tensors, launched at once."""
    side = torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            model(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        logits = model(images)

    def run(_: Tensor) -> Tensor:
        graph.replay()
        return logits

    return run


MODES = {"eager": lambda model, images: model, "compile": compiled, "graphs": captured}


def contenders() -> list[Contender]:
    return read_contenders("tome,paper=zero-tprune,zero-tprune", ["paper.preset=paper"], None)


def schedules(backbone: Backbone) -> dict[str, Schedule]:
    """By name, each at SAVED of the untouched model's FLOPs: the paper's three stages, ToMe's in every block."""
    counter, family = FlopCounter(backbone.model), backbone.family
    flops = round((1 - SAVED) * counter.count(UNTOUCHED))
    found = {}
    for contender in contenders():
        blocks = range(family.depth - 1) if contender.method == "tome" else paper_blocks(family.depth)
        found[contender.name] = nearest_below(contender, tuple(blocks), flops, counter.count, family.tokens)
    return found


def measure(table: Table, backbone: Backbone, arguments: argparse.Namespace, dtype: str, device: torch.device) -> None:
    model = backbone.model.to(device, DTYPES[dtype])
    counter = FlopCounter(backbone.model)
    images = torch.randn(arguments.batch, *backbone.family.image_shape, device=device, dtype=DTYPES[dtype])
    rows = {"dense": UNTOUCHED, "dense, exact savings": Schedule()} | schedules(backbone)
    for mode in arguments.modes:
        dense = MODES[mode](PrunedViT(model, UNTOUCHED).eval(), images)
        for name, schedule in rows.items():
            timing = time_against(
                dense, MODES[mode](PrunedViT(model, schedule).eval(), images), images, arguments.repeats
            )
            flops = counter.count(schedule)
            table.add(
                {
                    "model": backbone.name,
                    "dtype": dtype,
                    "mode": mode,
                    "schedule": name,
                    "GFLOPs": flops / 1e9,
                    "images/s": timing.dense_images_per_s * timing.speedup,
                    "speed-up": timing.speedup,
                    "realised/ideal": timing.speedup * flops / counter.count(UNTOUCHED),
                    "spread": timing.spread,
                    "kept": [plan.kept for plan in schedule.plan(backbone.family.tokens)],
                }
            )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["deit_small_patch16_224", "deit_base_patch16_224"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bfloat16", "float16"])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["eager", "compile", "graphs"])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="pairs of passes for each row, at least 2")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    if "graphs" in arguments.modes and device.type != "cuda":
        parser.error(f"--modes graphs needs a CUDA device, got {arguments.device}; leave it out")
    table = Table("accelerator", arguments, device, COLUMNS)
    for name in arguments.models:
        backbone = load_backbone(name, "random")
        for dtype in arguments.dtypes:
            measure(table, backbone, arguments, dtype, device)
    table.finish()


if __name__ == "__main__":
    main()
