"""How many images racing spares, and what part of it spares them: each part replayed on what one study measured.

    python -m tests.benchmarks.images_saved [--images 2000] [--trials 40] [--seeds 3] [--json FILE]

Studies of the demo with racing off measure every schedule on every image. Then each study is run through again on
these answers, in the order of its trials, with the race as it would have been; so all rows judge the same schedules.
"certain" stops a schedule only where it could not reach the front if it were right on all images left. "missed" are
schedules that were stopped although they would have gained more than the tolerance over the front of their moment.
"equal effect" counts trials whose schedule another trial of the study had measured already.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from search.attribute_keys import FACTS
from search.config.spec import StudySpec, read_spec
from search.evaluation.image_sampling import ImageOrder, draw_order, unpack_strata
from search.evaluation.racing import Bits, Race, Requirement, SequentialTest
from search.storage.store import Store
from tests.benchmarks.table import Table, make_parser
from tests.benchmarks.timed_runs import CONFIRM_IMAGES, search_only

CERTAIN = 1e-300  # an error level that no test reaches: only what is certain stops
COLUMNS = {"race": "", "images seen": ".1%", "min..max": "", "stopped": ".1f", "missed": ".1f"}


@dataclass(frozen=True)
class Measured:
    """A trial on the whole split. correct: in split order."""

    images_per_s: float
    correct: Bits


@dataclass(frozen=True)
class Study:
    """dense: its answers. trials: every schedule but the dense model's, in order, each effect once."""

    spec: StudySpec
    stratum: NDArray[np.uint8]
    dense: Bits
    trials: tuple[Measured, ...]
    repeated: float


@dataclass(frozen=True)
class Outcome:
    seen: float
    stopped: int
    missed: int


def make_study(images: int, trials: int, seed: int) -> Study:
    changes = {
        "data.search_images": images,
        "data.confirm_images": CONFIRM_IMAGES,
        "budget": {"trials": trials},
        "sampler.seed": seed,
        "racing.alpha": 0.0,
    }
    spec = read_spec("demo", changes)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        search_only(spec, url)
        store = Store.open(url)
        record = store.study(spec.name)
        found, done = store.evaluations(record.id), store.progress(record.id).done
        store.close()
    measured = [Measured(e.search.throughput.images_per_s, _bits(e.search.correct, images)) for e in found]
    dense, *others = measured  # the dense model goes first
    stratum = unpack_strata(record.provenance[FACTS]["strata"])
    return Study(spec, stratum, dense.correct, tuple(others), 1 - len(found) / done)


def _bits(packed: bytes, images: int) -> Bits:
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=images).astype(bool)


def replay(study: Study, alpha: float, strata: int) -> Outcome:
    """The study's trials, each raced against those before it that ran to their end."""
    tolerance, batch = read_spec("demo").racing.tolerance, study.spec.runtime.batch_size
    stratum = study.stratum if strata > 1 else np.zeros_like(study.stratum)
    order = draw_order(stratum, strata, study.spec.data.seed)
    complete, seen, missed = [Measured(0.0, study.dense)], 0, 0
    for trial in study.trials:
        as_fast = [each for each in complete if each.images_per_s >= trial.images_per_s]
        rival = max(as_fast, key=lambda each: each.correct.mean(), default=None)
        requirements = () if rival is None else (Requirement(rival.correct, tolerance),)
        images = race(order, trial, Race(requirements, alpha, study.dense), batch)
        seen += images
        if images == len(order):
            complete.append(trial)
        elif rival is not None:
            missed += trial.correct.mean() - rival.correct.mean() >= tolerance
    stopped = 1 + len(study.trials) - len(complete)
    return Outcome(seen / (len(study.trials) * len(order)), stopped, missed)


def race(order: ImageOrder, trial: Measured, rivals: Race, batch: int) -> int:
    """How many images the trial sees."""
    lap, correct = SequentialTest(order, rivals), trial.correct[order.positions]
    for seen in range(batch, len(order), batch):
        if not lap.may_go_on(correct[:seen]):
            return seen
    return len(order)


def summarise(name: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    shares = [outcome.seen for outcome in outcomes]
    return {
        "race": name,
        "images seen": statistics.median(shares),
        "min..max": f"{min(shares):.1%}..{max(shares):.1%}",
        "stopped": statistics.mean(outcome.stopped for outcome in outcomes),
        "missed": statistics.mean(outcome.missed for outcome in outcomes),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = []
    for seed in range(arguments.seeds):
        studies.append(make_study(arguments.images, arguments.trials, seed))
        print(f"study {seed}: {1 + len(studies[-1].trials)} schedules measured", file=sys.stderr)
    racing = read_spec("demo").racing
    table = Table("images_saved", arguments, torch.device("cpu"), COLUMNS)
    for name, alpha, strata in (
        ("none", 0.0, 1),
        ("certain, uniform order", CERTAIN, 1),
        ("certain, by margin", CERTAIN, racing.strata),
        (f"test at {racing.alpha:g}, uniform order", racing.alpha, 1),
        (f"test at {racing.alpha:g}, by margin", racing.alpha, racing.strata),
    ):
        table.add(summarise(name, [replay(study, alpha, strata) for study in studies]))
    repeated = statistics.mean(study.repeated for study in studies)
    table.finish({"trials of equal effect, which cost no image": f"{repeated:.1%}"})


if __name__ == "__main__":
    main()
