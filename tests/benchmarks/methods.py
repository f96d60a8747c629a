"""Methods at equal FLOPs on the demo: accuracy on all 10,000 test images, paired test against random.

    python -m tests.benchmarks.methods [--images 10000] [--ablation]

FLOPs are equal in the strict sense: a baseline's first keep is raised until its FLOPs, by fvcore's convention, are
at least those of zero-tprune with votes and matching included. The test is McNemar's exact one, on the images that
the two methods disagree about.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from pruning import Schedule, Stage, count_flops
from pruning.backbones import load_backbone
from pruning.model import PrunedViT
from search.evaluation.device import DTYPES
from search.evaluation.evaluator import Evaluator, accuracy_of
from search.evaluation.images.splits import open_all
from search.study.spec import DataSpec, ObjectivesSpec
from tests.benchmarks.hardware import hardware_line

BLOCKS, VOTES = (2, 5, 8), (30, 5, 1)  # the paper's places and its votes: many early, few late
LEVELS = (0.6, 0.5, 0.4)  # keep at each stage
# The similarity step alone, its candidates spread evenly over the importance order: one of the paper's ablations.
# Chosen on 1,500 training images, which this benchmark does not see.
SPREAD = {"partition": 0.7, "similarity_share": 1.0}
SPREAD_NAME = "zero-tprune, split: alternate"
ABLATED_LEVEL = 0.5
ABLATION: dict[str, dict[str, Any]] = {
    "WPR": {"aggregation": "mean", "similarity": False},
    "+ EIR": {"similarity": False},
    "+ S": {},
    "+ S + VHF [0.01, 0.7]": {"head_filter": True},
    "+ S, no class start": {"class_start": False},
    "+ S, alternate split": {"split": "alternate"},
    "+ S, random split": {"split": "random"},
    "+ S, value feature": {"feature": "value"},
    "+ S, dot metric": {"metric": "dot"},
}


@dataclass(frozen=True)
class Row:
    """One method at one level."""

    level: float
    method: str
    gflops: float
    accuracy: float
    ci95: tuple[float, float]
    p_value: float | None  # against random at this level, two-sided


def paper_shape(keep: float, options: Mapping[str, Any] | None = None, **fields: float) -> Schedule:
    stages = [Stage(block, keep, votes, **fields) for block, votes in zip(BLOCKS, VOTES, strict=True)]
    return Schedule(stages, options=options)


def at_least(flops: int, keep: float, method: str, model: torch.nn.Module) -> Schedule:
    """The method's schedule of this shape whose FLOPs are the least that are not below `flops`."""
    for extra in range(200):
        first = Stage(BLOCKS[0], min(1.0, keep + extra / 196))
        schedule = Schedule([first, *(Stage(block, keep) for block in BLOCKS[1:])], method)
        if count_flops(model, schedule) >= flops:
            return schedule
    raise ValueError(f"no schedule of {method} reaches {flops} FLOPs")


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Two-sided exact p-value that both are right equally often."""
    wins, losses = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def measure(images: int, ablation: bool, dtype: str) -> tuple[list[Row], str]:
    backbone = load_backbone("demo")
    data, objectives = DataSpec(source="demo"), ObjectivesSpec()
    split = open_all(data, objectives, backbone).search()
    split = type(split)(split.name, split.pixels[:images], split.labels[:images], split.mean, split.std)
    device = torch.device("cpu")
    model = PrunedViT(backbone.model.to(DTYPES[dtype]))
    evaluator = Evaluator(model, split, "top1", 50, device, cache_bytes=4 * 2**30)
    rows = [_row(0.0, "dense", Schedule(), evaluator.correct(Schedule()), None, model)]
    for level in LEVELS:
        ours = paper_shape(level)
        flops = count_flops(model, ours)  # the dearest: the baselines are raised to it
        chance = at_least(flops, level, "random", model)
        spread = paper_shape(level, {"split": "alternate"}, **SPREAD)
        named = {
            SPREAD_NAME: spread,
            "zero-tprune": ours,
            "cls-attention": at_least(flops, level, "cls-attention", model),
        }
        if ablation and level == ABLATED_LEVEL:
            named |= {name: paper_shape(level, options) for name, options in ABLATION.items()}
        reference = evaluator.correct(chance)
        rows.append(_row(level, "random", chance, reference, None, model))
        print_row(rows[-1])
        for name, schedule in named.items():
            rows.append(_row(level, name, schedule, evaluator.correct(schedule), reference, model))
            print_row(rows[-1])
    return rows, hardware_line(device)


def _row(
    level: float,
    name: str,
    schedule: Schedule,
    correct: NDArray[np.bool_],
    reference: NDArray[np.bool_] | None,
    model: torch.nn.Module,
) -> Row:
    accuracy = accuracy_of(correct, "top1")
    p_value = None if reference is None else mcnemar(correct, reference)
    return Row(level, name, count_flops(model, schedule) / 1e9, accuracy.value, (accuracy.low, accuracy.high), p_value)


def print_row(row: Row) -> None:
    p_value = "" if row.p_value is None else f"{row.p_value:.1e}"
    low, high = (100 * bound for bound in row.ci95)
    print(
        f"| {row.level:.2f} | {row.method} | {row.gflops:.4f} | {100 * row.accuracy:.2f} | [{low:.2f}, {high:.2f}] "
        f"| {p_value} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--ablation", action="store_true", help="the paper's ablations too, at one level")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    rows, hardware = measure(arguments.images, arguments.ablation, arguments.dtype)
    print(f"\n{arguments.images} images, {arguments.dtype}, {hardware}\n")
    print("| keep | method | GFLOPs | top-1 % | 95% CI | p against random |\n|---|---|---|---|---|---|")
    for row in rows:
        print_row(row)
    if arguments.json:
        document = {"images": arguments.images, "dtype": arguments.dtype, "hardware": hardware}
        arguments.json.write_text(json.dumps(document | {"rows": [vars(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
