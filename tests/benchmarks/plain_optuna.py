"""What one would write today around the pruning code: an Optuna study, every trial on all images, timed at its end.

    python -m tests.benchmarks.plain_optuna [--trials 40] [--seconds 900] [--seed 0] [--storage sqlite:///plain.db]

The yardstick of `time_to_front`: images are decoded and normalised once and stay in memory, nothing is copied for a
trial, and the search space is the demo study's. Each trial counts FLOPs by fvcore's trace and times ten batches, as
such scripts do, in float32 as timm loads weights (--dtype bfloat16 otherwise). Optuna is used with its own defaults;
schedules that leave no token are pruned trials.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from pruning import PrunedViT, Schedule, prune, trace_flops
from pruning.backbones import load_backbone
from pruning.errors import ScheduleError
from search.config.space import distributions, to_params, to_schedule
from search.config.spec import read_spec
from search.config.starting_schedules import baselines
from search.evaluation.data.splits import open_images

BATCH = 50
TIMED_BATCHES = 10


@dataclass(frozen=True)
class Finished:
    """One trial, `seconds` after the script's start; loading and set-up count."""

    seconds: float
    schedule: Schedule
    accuracy: float


def suggest(trial: optuna.Trial, name: str, values: BaseDistribution) -> Any:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(name, values.low, values.high)
    return trial.suggest_float(name, values.low, values.high)  # type: ignore[attr-defined]


@torch.inference_mode()
def measure_accuracy(model: PrunedViT, batches: list[torch.Tensor], labels: torch.Tensor) -> float:
    predictions = torch.cat([model(batch).argmax(-1) for batch in batches])
    return int((predictions == labels).sum()) / len(labels)


@torch.inference_mode()
def measure_throughput(model: PrunedViT, batch: torch.Tensor) -> float:
    """Images a second: the median of ten batches, after one to warm up."""
    model(batch)
    seconds = []
    for _ in range(TIMED_BATCHES):
        began = time.perf_counter()
        model(batch)
        seconds.append(time.perf_counter() - began)
    return len(batch) / statistics.median(seconds)


def search(
    trials: int,
    seconds: float,
    seed: int,
    storage: str,
    dtype: str = "float32",
    images: int = 2000,
    known: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> list[Finished]:
    """Run the study until `trials` are done or `seconds` are over; the trial then running is finished.

    images: of the search split. known: whether the schedules that our own search starts with go first. overrides: of
    the demo study, by dotted names: another backbone, other images.
    """
    began = time.perf_counter()
    spec = read_spec("demo", {"data.search_images": images, **(overrides or {})})
    backbone = load_backbone(spec.backbone.name, spec.backbone.weights)
    model, depth = backbone.model.to(getattr(torch, dtype)), backbone.family.depth
    split = open_images(spec.data, spec.objectives, backbone).search()
    batches, labels = list(split.batches(BATCH)), torch.from_numpy(split.labels)
    box = distributions(spec.space, depth)
    finished: list[Finished] = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {name: suggest(trial, name, values) for name, values in box.items()}
        schedule = to_schedule(params, spec.space, depth)
        try:
            pruned = prune(model, schedule)
        except ScheduleError as error:
            raise optuna.TrialPruned(str(error)) from None
        trial.set_user_attr("schedule", schedule.to_dict())
        trial.set_user_attr("flops", trace_flops(model, schedule))
        return measure_accuracy(pruned, batches, labels), measure_throughput(pruned, batches[0])

    def keep(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.values is None:
            return
        schedule = to_schedule(trial.params, spec.space, depth)
        finished.append(Finished(time.perf_counter() - began, schedule, trial.values[0]))

    study = optuna.create_study(
        study_name="plain",
        storage=storage,
        directions=["maximize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=seed),  # Optuna's default, also for two objectives, but seeded
    )
    if known:
        for _, schedule in baselines(spec.space, depth, backbone.family.tokens):
            study.enqueue_trial(to_params(schedule, spec.space, depth))
    study.optimize(objective, trials, timeout=seconds - (time.perf_counter() - began), callbacks=[keep])
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", default="sqlite:///plain.db")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    for trial in search(**vars(arguments)):
        print(f"{trial.seconds:7.1f} s  {100 * trial.accuracy:.2f}%  {trial.schedule}")


if __name__ == "__main__":
    main()
