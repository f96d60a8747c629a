"""Runs a comparison: every contender at every level answers the same images and is timed against the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.backbones import Backbone, load_backbone
from pruning.config import Config, read_config
from pruning.errors import WeightsError
from pruning.flops import FlopCounter
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.objectives import split_recorded
from search.config.spec import StudySpec, make_spec
from search.errors import InputError
from search.evaluation.compare.entries import SHARES, Contender, Cost, Entry, Levels, at_cost, at_keep, paper_blocks
from search.evaluation.compare.statistics import Bits, Comparison, Costs, Row, judge_levels
from search.evaluation.data.splits import Images, draw, open_all, open_images, open_source
from search.evaluation.device import choose_device
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.evaluation.throughput import measured as to_throughput
from search.types import Measurement

Observe = Callable[[int, int, Row], None]  # rows done, rows in all, the row just measured


SAVING = Schedule()  # the dense model with exact savings
IMAGES = 2000  # unless asked otherwise: 90% accuracy within 1.3 points, and paired tests see less than that


def compare(
    spec: StudySpec,
    contenders: Sequence[Contender],
    levels: Levels,
    images: int | None,
    searched: bool,
    configs: Sequence[Path],
    observe: Observe,
) -> Comparison:
    """Measure everything. spec: backbone, data, objectives and runtime; the rest of it is not looked at.

    images: how many; None for IMAGES, or all there are. searched: whether `spec` is a study's: its search images are
    then left out, like those of every configuration in `configs`, for a front's points are the best on them partly by
    luck. Raises InputError or PruningError before anything is run for what cannot be.
    """
    exported = [(path, read_config(path)) for path in configs]
    backbone = load_backbone(spec.backbone.name, spec.backbone.weights, **spec.backbone.loading)
    for path, config in exported:
        check_config(path, config, backbone)
    chosen, words = choose_images(spec, backbone, images, searched, [config for _, config in exported])
    evaluator = ScheduleEvaluator(
        EvaluationContext(_measured(spec), backbone, chosen, choose_device(spec.runtime.device))
    )
    entries = line_up(backbone, contenders, levels, [(path.stem, config) for path, config in exported])
    evaluator.calibrate()
    dense, saving = evaluator.measure(UNTOUCHED, evaluator.speed.time(UNTOUCHED)), _measure_saving(evaluator)
    evaluator.warn_at_chance(dense.accuracy)
    rows = list(_measure(evaluator, entries, observe))
    facts = {
        "name": backbone.name,
        "weights": backbone.weights,
        **backbone.options,
        "fingerprint": backbone.fingerprint,
    }
    facts["preprocessing"] = backbone.preprocessing
    measured = [dense, saving, *(row.measurement for row, _ in rows)]
    counter = FlopCounter(backbone.model)
    costs = {each.key: both_costs(counter, each.schedule) for each in measured if each}
    return Comparison(facts, words, dense, judge_levels(rows), saving, costs)


def _measure_saving(evaluator: ScheduleEvaluator) -> Measurement | None:
    """The dense model with exact savings; None where the backbone has none."""
    if evaluator.flops(SAVING) >= evaluator.flops(UNTOUCHED):
        return None
    # not by ScheduleEvaluator.time: what has no stages is as fast as the untouched model to it
    timing = evaluator.context.time_pairs(SAVING)
    return evaluator.measure(SAVING, to_throughput(timing, evaluator.calibration.dense_images_per_s))


def both_costs(counter: FlopCounter, schedule: Schedule) -> Costs:
    """FLOPs of a schedule without and with exact savings, whatever it asks for."""
    return Costs(counter.count(schedule, exact_savings=False), counter.count(replace(schedule, exact_savings=True)))


def _measured(spec: StudySpec) -> StudySpec:
    """The spec without a latency profile: here every throughput is measured."""
    return make_spec(spec.to_dict() | {"objectives": {**spec.to_dict()["objectives"], "throughput": "measured"}}, "")


def check_config(path: Path, config: Config, backbone: Backbone) -> None:
    """Raise InputError or WeightsError unless the configuration is of this backbone; of a sketch, whatever weights."""
    if config.backbone["name"] != backbone.name:
        rule = f"must be that of the comparison, {backbone.name}"
        raise InputError("backbone.name", rule, config.backbone["name"], source=path)
    if config.options != backbone.options:
        rule = f"the backbone's options must be those of the comparison, {_words(backbone.options)}"
        raise InputError(path, rule, _words(config.options))
    expected = config.backbone.get("fingerprint", backbone.fingerprint)
    if backbone.fingerprint and expected != backbone.fingerprint:
        raise WeightsError(
            f"{path}: backbone.fingerprint must be that of the compared weights, {backbone.fingerprint}, got "
            f"{expected}; compare with the weights it was exported for, of the same backbone.weights_key"
        )


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "its own"


def choose_images(
    spec: StudySpec, backbone: Backbone, wanted: int | None, searched: bool, configs: Sequence[Config]
) -> tuple[Images, str]:
    """The images of a comparison and what to call them: drawn by data.seed from those that no search has seen.

    Raises InputError if fewer than `wanted` are left.
    """
    everything = open_all(spec.data, spec.objectives, backbone)
    seen: list[NDArray[np.int64]] = []
    if searched:
        own = open_images(spec.data, spec.objectives, backbone)
        everything = replace(everything, gallery_indices=own.gallery_indices)
        seen = [own.search_indices]
    seen += [found for config in configs if (found := _searched(config, spec, backbone, everything)) is not None]
    left = np.setdiff1d(
        np.arange(len(everything.source)), np.concatenate([everything.gallery_indices, *seen], dtype=np.int64)
    )
    count = min(IMAGES, len(left)) if wanted is None else wanted
    if not 1 <= count <= len(left):
        unseen = " that no search has seen" if seen else ""
        raise InputError("--images", f"must be in 1..{len(left)}, the images of {_place(spec)}{unseen}", wanted)
    drawn = np.sort(np.random.default_rng(spec.data.seed).permutation(left)[:count])
    words = f"{count:,} of {_place(spec)}, seed {spec.data.seed}" + (", none of them searched on" if seen else "")
    words += f"; labels: {everything.classes}"
    return replace(everything, search_indices=drawn), words


def _searched(config: Config, spec: StudySpec, backbone: Backbone, images: Images) -> NDArray[np.int64] | None:
    """The search images of an exported configuration, if they are from the images that are compared on."""
    data, objectives = split_recorded(config.data.items())
    if data.get("path") != spec.data.path or data.get("source") != spec.data.source or not data:
        return None
    document = {"name": "compare", "backbone": {"name": backbone.name, **backbone.options}, "data": data}
    theirs = make_spec({**document, "objectives": objectives}, "config")
    source = open_source(theirs.data, spec.objectives, backbone, images.texts)
    if source.fingerprint != images.source.fingerprint:
        return None
    return draw(theirs.data, theirs.objectives, len(source))[0]


def _place(spec: StudySpec) -> str:
    return "the demo" if spec.data.path is None else spec.data.path


def line_up(
    backbone: Backbone, contenders: Sequence[Contender], levels: Levels, configs: Sequence[tuple[str, Config]]
) -> list[Entry]:
    """Every contender at every level, configurations first at the level they fit under. Runs no image.

    Raises InputError for a level at which nobody can be, or that asks for no less than the dense model costs.
    """
    cost, family = _cost(backbone), backbone.family
    dense = cost(UNTOUCHED)
    blocks = levels.blocks or paper_blocks(family.depth)
    if max(blocks) > family.depth - 2:
        rule = (
            f"must be at most {family.depth - 2} for a backbone of {family.depth} blocks (dropping after the "
            "last block saves nothing)"
        )
        raise InputError("--blocks", rule, max(blocks))
    joining = [(name, config.schedule, cost(config.schedule) / 1e9) for name, config in configs]
    costs = _costs(levels, dense / 1e9, [gflops for _, _, gflops in joining])
    groups = [[at_keep(each, blocks, keep, cost) for each in contenders] for keep in levels.keeps]
    groups += [[at_cost(each, blocks, gflops, cost, family.tokens) for each in contenders] for gflops in costs]
    for group in groups:
        if group and all(entry.schedule is None for entry in group):
            raise InputError(group[0].level, "some method must reach it", f"none; {group[0].name}: {group[0].absent}")
    joined = []
    for name, schedule, gflops in joining:
        method = " + ".join(schedule.methods) or schedule.method
        level = min(
            (each for each in costs if gflops <= each), default=gflops
        )  # the lowest that it keeps to, or its own
        joined.append(Entry(name, method, f"{level:.4g} GFLOPs", schedule))
    # a level of a configuration of its own comes first
    order = list(dict.fromkeys(group[0].level for group in groups if group))
    entries = [*joined, *(entry for group in groups for entry in group)]
    return sorted(entries, key=lambda entry: order.index(entry.level) if entry.level in order else -1)


def _cost(backbone: Backbone) -> Cost:
    """FLOPs of a schedule that the backbone can run. Raises ScheduleError for another."""
    probe, counter = PrunedViT(backbone.model), FlopCounter(backbone.model)

    def cost(schedule: Schedule) -> int:
        probe.schedule = schedule
        return counter.count(schedule)

    return cost


def _costs(levels: Levels, dense: float, joining: Sequence[float]) -> list[float]:
    """The levels in GFLOPs, the dearest first; those of the joining configurations if none are asked for."""
    over = [gflops for gflops in levels.gflops if gflops >= dense]
    if over:
        rule = f"must be below the {dense:.4g} GFLOPs of the dense model"
        raise InputError("--gflops", rule, f"{over[0]:g}", "lower it")
    if levels.keeps:
        return []
    asked = levels.gflops or tuple(joining) or tuple(share * dense for share in SHARES)
    return sorted(set(asked), reverse=True)


def _measure(
    evaluator: ScheduleEvaluator, entries: Sequence[Entry], observe: Observe
) -> Iterator[tuple[Row, Bits | None]]:
    for done, entry in enumerate(entries, start=1):
        row, bits = Row(entry.name, entry.method, entry.level, absent=entry.absent), None
        if entry.schedule is not None:
            measured: Measurement = evaluator.measure(entry.schedule, evaluator.speed.time(entry.schedule))
            row, bits = replace(row, measurement=measured), evaluator.bits(measured)
        observe(done, len(entries), row)
        yield row, bits
