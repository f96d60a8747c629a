"""What int8 and pruning are worth together, where a model is deployed: accuracy, images/s and latencies by runtime.

    python -m tests.benchmarks.deployed --weights FILE --data DIR [--backbone deit_tiny_patch16_224] [--calibrate DIR]
        [--config best.yaml ...] [--level 40] [--runtimes torch onnxruntime openvino] [--batches 32 1] [--threads 2]
        [--images N] [--json OUT]

Rows: the untouched model, ToMe's constant r and zero-tprune on DiffRate's counts at a level (percent of FLOPs saved),
and exported configurations; each in every runtime in float32 and, where it has that, in int8. --calibrate: images
that int8 is calibrated with, others than those that are measured; default: the measured ones.

Accuracy is of what the runtime answers on all images, with the paired difference to the untouched model in torch,
float32, and its 95% interval. Speed is relative to the untouched model in float32 in the same runtime with as many
threads, in turns, at each batch size; latencies are percentiles of single passes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.backbones import load_backbone
from pruning.config import read_config
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.deployment import DeploymentSpec
from search.evaluation.calibrator import UNPRUNED
from search.evaluation.data.splits import open_all
from search.evaluation.deployed import DeployedEvaluator, DeployedModel
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import Bits, Evaluator
from search.evaluation.reference import DenseReference
from search.evaluation.runtimes import FLOAT32, INT8, RUNTIMES
from tests.benchmarks.real import choose_images, make_study
from tests.benchmarks.real_schedules import Ground, Level, line_up
from tests.benchmarks.table import Table, make_parser

COLUMNS = {
    "runtime": "",
    "precision": "",
    "model": "",
    "top1": ".2f",
    "to dense float32, points [95%]": "",
    "agreement %": ".1f",
    "KL": ".4f",
}
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
WANTED = {("tome", "r "): "ToMe, {}", ("zero-tprune", "DiffRate"): "zero-tprune, {}"}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="deit_tiny_patch16_224", metavar="NAME")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--calibrate", metavar="DIR")
    parser.add_argument("--config", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--level", type=float, default=40.0, metavar="PERCENT")
    parser.add_argument("--runtimes", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1], metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, metavar="N")
    parser.set_defaults(batch=50, dtype=FLOAT32)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    spec = make_study(arguments)
    backbone = load_backbone(spec.backbone.name, spec.backbone.weights)
    context = EvaluationContext(
        spec, backbone, choose_images(spec, backbone, arguments.images, None), torch.device("cpu")
    )
    context.set_model(FLOAT32)
    split, classes = context.search_split, backbone.num_classes
    other = split
    if arguments.calibrate:
        data = spec.data.model_copy(update={"path": arguments.calibrate})
        other = open_all(data, spec.objectives, backbone).search()
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(other)))

    def calibration(count: int) -> torch.Tensor:
        return other.take(chosen[:count])

    model = PrunedViT(backbone.model).eval()
    reference = DenseReference(len(split), classes)
    plain = Evaluator(model, split, "top1", arguments.batch, context.device, reference=reference)
    dense = plain.see(UNTOUCHED).correct
    flags = [flag for flag in FLAGS if flag in Path("/proc/cpuinfo").read_text().split()]
    settings = argparse.Namespace(**vars(arguments) | {"images": len(split), "cpu": " ".join(flags)})
    columns = COLUMNS | {
        name: form
        for batch in arguments.batches
        for name, form in ((f"images/s, {batch}", ".0f"), (f"speed-up, {batch}", ""), (f"ms p50/p95/p99, {batch}", ""))
    }
    table = Table("deployed", settings, context.device, columns)
    for name in arguments.runtimes:
        for precision in (FLOAT32, INT8):
            if precision not in RUNTIMES[name].precisions:
                continue
            asked = DeploymentSpec(
                runtime=name, precision=precision, batch_sizes=tuple(arguments.batches), threads=arguments.threads
            )
            deployed = DeployedModel(model, asked, calibration)
            evaluator = DeployedEvaluator(
                deployed, model, split, "top1", arguments.batch, context.device, reference=reference
            )
            for label, schedule in models(arguments, context, precision):
                table.add(
                    {"runtime": deployed.describe().partition(",")[0], "precision": precision, "model": label}
                    | answers(evaluator, schedule, dense)
                    | speeds(deployed, schedule, context, arguments.batches)
                )
    table.finish()


def models(arguments: argparse.Namespace, context: EvaluationContext, precision: str) -> list[tuple[str, Schedule]]:
    ground = Ground(context.backbone.family, context.flops)
    level = Level.below(context.flops(UNTOUCHED), arguments.level)
    found = [("dense", UNTOUCHED if precision == FLOAT32 else UNPRUNED)]
    for entry in line_up(ground, level, ["tome", "zero-tprune"]):
        for (method, start), label in WANTED.items():
            if entry.name == method and entry.layout.startswith(start) and entry.schedule is not None:
                found.append((f"{label.format(entry.layout)} ({level.name})", entry.schedule))
    return found + [(path.stem, read_config(path).schedule) for path in arguments.config]


def answers(evaluator: DeployedEvaluator, schedule: Schedule, dense: Bits) -> dict[str, Any]:
    seen = evaluator.see(schedule)
    difference = seen.correct.astype(float) - dense
    error = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
    mean = difference.mean()
    ends = f"{100 * (mean - error):+.2f}, {100 * (mean + error):+.2f}"
    assert seen.agrees is not None
    assert seen.divergence is not None
    return {
        "top1": 100 * seen.correct.mean(),
        "to dense float32, points [95%]": f"{100 * mean:+.2f} [{ends}]",
        "agreement %": 100 * seen.agrees.mean(),
        "KL": seen.divergence.mean(),
    }


def speeds(
    deployed: DeployedModel, schedule: Schedule, context: EvaluationContext, batches: Sequence[int]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for batch in batches:
        images = context.timing_images(batch)
        timing, latency = deployed.time(schedule, images), deployed.latency(schedule, images)
        mark = "?" if timing.disturbed or latency.disturbed else ""
        low, high = timing.interval
        found |= {
            f"images/s, {batch}": timing.dense_images_per_s * timing.speedup,
            f"speed-up, {batch}": f"{timing.speedup:.2f}x [{low:.2f}, {high:.2f}]{mark}",
            f"ms p50/p95/p99, {batch}": f"{latency.p50:.3g} / {latency.p95:.3g} / {latency.p99:.3g}",
        }
    return found


if __name__ == "__main__":
    main()
