"""How well the latency profile predicts: measured against predicted speed-up of random schedules.

    python -m tests.benchmarks.profile [--model deit_small_patch16_224 --batch 16]
    python -m tests.benchmarks.profile --model demo --dtype bfloat16 --batch 50

The profile is measured once, as at the start of a study. The schedules are drawn at random from the demo study's
space, as the paper's search draws them. The error is predicted over measured speed-up, less one; the spread is that
of the measurement itself, and no prediction can be told to be better than it.
"""

from __future__ import annotations

import statistics
import time

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pruning import Schedule, count_flops
from pruning.backbones import load_backbone
from pruning.methods import METHODS
from pruning.model import PrunedViT
from search.config.search_sections import SpaceSpec
from search.config.space import smallest
from search.config.spec import read_spec
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.latency_profiler import measure_profile
from search.evaluation.profile_cases import stage_kinds
from search.evaluation.throughput import REPEATS, time_pairs
from tests.benchmarks.prefix_cache import draw
from tests.benchmarks.table import Table, make_parser

COLUMNS = {"schedule": "", "GFLOPs": ".3f", "predicted": ".3f", "measured": ".3f", "error": "+.1%", "spread": ".1%"}


def take_profile(model: PrunedViT, images: Tensor, space: SpaceSpec) -> LatencyProfile:
    """The profile of a study of this space: from the fewest tokens that a schedule of it leaves."""
    fewest = smallest(space, model.family.depth, lambda schedule: count_flops(model, schedule))
    kinds = stage_kinds(space.methods, space.options, model)
    return measure_profile(model, images, kinds, fewest.plan(model.family.tokens)[-1].kept)


def summarise(rows: list[dict[str, float]], profile_s: float) -> dict[str, str]:
    errors = [abs(row["error"]) for row in rows]
    order = spearmanr([row["predicted"] for row in rows], [row["measured"] for row in rows]).statistic
    return {
        "median error": f"{statistics.median(errors):.1%}",
        "worst error": f"{max(errors):.1%}",
        "median spread of the measurement": f"{statistics.median(row['spread'] for row in rows):.1%}",
        "rank correlation": f"{order:.3f}",
        "the profile took": f"{profile_s:.1f} s",
    }


def compare(
    model: PrunedViT, schedule: Schedule, profile: LatencyProfile, images: Tensor, repeats: int
) -> dict[str, float]:
    predicted = profile.predict(schedule).speedup
    timing = time_pairs(model, schedule, images, repeats)
    return {
        "GFLOPs": count_flops(model, schedule) / 1e9,
        "predicted": predicted,
        "measured": timing.speedup,
        "error": predicted / timing.speedup - 1,
        "spread": timing.spread,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=None, help="default: the study's")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="pairs of passes for each schedule, at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    backbone = load_backbone(arguments.model, "random")  # what is computed does not depend on the weights
    model = PrunedViT(backbone.model.to(device, DTYPES[arguments.dtype])).eval()
    images = torch.randn(arguments.batch, *backbone.family.image_shape, device=device)
    spec = read_spec("demo", {"space.methods": arguments.methods} if arguments.methods else {})
    table = Table("profile", arguments, device, COLUMNS)
    began = time.perf_counter()
    profile = take_profile(model, images, spec.space)
    profile_s = time.perf_counter() - began
    rows = []
    for schedule in draw(spec, backbone.family.depth, arguments.schedules):
        rows.append(compare(model, schedule, profile, images, arguments.repeats))
        table.add({"schedule": str(schedule), **rows[-1], "stages": schedule.to_dict()["stages"]})
    table.finish(summarise(rows, profile_s))


if __name__ == "__main__":
    main()
