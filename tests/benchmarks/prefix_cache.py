"""What the prefix cache saves: the same schedules on the same images, with and without it, alternating.

    python -m tests.benchmarks.prefix_cache [--images 300] [--schedules 12] [--threads 1] [--json FILE]

Schedules are drawn at random from the demo study's space, as the paper's search draws them.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from pruning.backbones import load_backbone
from pruning.model import PrunedViT
from pruning.schedule import Schedule
from search.config.space import distributions, to_schedule
from search.config.spec import StudySpec, read_spec
from search.evaluation.data.splits import open_images
from search.evaluation.device import DTYPES
from search.evaluation.evaluator import Evaluator
from tests.benchmarks.table import Table, make_parser


def draw(spec: StudySpec, depth: int, count: int) -> list[Schedule]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    box = distributions(spec.space, depth)
    return [to_schedule(study.ask(box).params, spec.space, depth) for _ in range(count)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--schedules", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = read_spec("demo", {"data.search_images": arguments.images})
    backbone = load_backbone("demo")
    split = open_images(spec.data, spec.objectives, backbone).search()
    model, cpu = PrunedViT(backbone.model.to(DTYPES[arguments.dtype])), torch.device("cpu")
    evaluators = {name: Evaluator(model, split, "top1", 50, cpu, size) for name, size in (("off", 0), ("on", 2**31))}
    seconds = dict.fromkeys(evaluators, 0.0)
    for schedule in draw(spec, backbone.family.depth, arguments.schedules):
        answers = {}
        for name, evaluator in evaluators.items():
            began = time.perf_counter()
            answers[name] = evaluator.predictions(schedule)
            seconds[name] += time.perf_counter() - began
        assert np.array_equal(answers["off"], answers["on"]), f"{schedule}: the cache changed a result"
    table = Table("prefix_cache", arguments, cpu, {"cache": "", "seconds": ".1f"})
    for name, value in seconds.items():
        table.add({"cache": name, "seconds": value})
    table.finish({"with the cache": f"{seconds['off'] / seconds['on']:.2f} times as fast, results bit-identical"})


if __name__ == "__main__":
    main()
