"""Measure an exported configuration again, on the same images and in the same number format.

Knows configurations and the bench's parts. Ignores studies and SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.backbones import Backbone, load_backbone
from pruning.config import Config, read_config
from pruning.errors import ScheduleError, WeightsError
from pruning.schedule import Schedule
from search.errors import InputError
from search.evaluation.bench import Bench
from search.evaluation.data import Images, open_all, open_images
from search.evaluation.device import choose_device, describe_device
from search.evaluation.facts import Facts
from search.evaluation.throughput import time_pairs
from search.store.records import Measurement
from search.study.spec import StudySpec, make_spec


@dataclass(frozen=True)
class Replay:
    """What was measured now, beside what the file recorded.

    same_images: whether the images are those of the record (fingerprint); only then must the numbers agree.
    reproduced: accuracy equal exactly and FLOPs equal to the integer; None if the images differ.
    """

    measured: Measurement
    recorded_accuracy: float | None
    recorded_flops: int | None
    same_images: bool
    reproduced: bool | None
    split: str = "search"


def replay(path: Path, data_path: str | None = None) -> Replay:
    """Evaluate an exported configuration. data_path: other images than those it was found on (ImageFolder layout).

    Raises ConfigError, ScheduleError, WeightsError, UnsupportedBackbone or InputError naming file, field and value.
    """
    config = read_config(path)
    recorded = _recorded(config, path)
    spec = spec_of(config, path, data_path)
    backbone = load_backbone(spec.backbone.name, spec.backbone.weights)
    expected = config.backbone.get("fingerprint")
    if expected is not None and expected != backbone.fingerprint:
        raise WeightsError(
            f"{path}: backbone.fingerprint must be that of the weights exported, {expected}, got "
            f"{backbone.fingerprint}; point backbone.weights at the same file"
        )
    try:
        config.schedule.plan(backbone.family.tokens, backbone.family.depth)  # refuse what does not fit before timing
    except ScheduleError as error:
        raise ScheduleError(f"{path}: schedule: {error}") from None
    images, same = _images(spec, config, backbone)
    device = choose_device(spec.runtime.device)
    bench = Bench(spec, backbone, images, device)
    dense = time_pairs(bench.cast(spec.runtime.dtype), Schedule(), bench.timing_images())
    bench.use(
        Facts(
            dtype=spec.runtime.dtype,
            dtype_reason="recorded",
            hardware=describe_device(device),
            weights=backbone.fingerprint,
            images=images.fingerprint,
            dense_images_per_s=dense.dense_images_per_s,
            profile=None,
        )
    )
    return _compare(config, bench, same, *recorded)


def _recorded(config: Config, path: Path) -> tuple[float | None, int | None]:
    """Accuracy and FLOPs as the file has them; None for what a file written by hand leaves out. Raises InputError."""
    search = config.metrics.get("search") or {}
    if not isinstance(search, Mapping):
        raise InputError(f"{path}: metrics.search must be a mapping, got {search!r}; export it again")
    accuracy, flops = search.get("accuracy"), config.metrics.get("flops")
    for name, value in (("metrics.search.accuracy", accuracy), ("metrics.flops", flops)):
        if value is not None and type(value) not in (int, float):
            raise InputError(f"{path}: {name} must be a number, got {value!r}; export it again")
    return accuracy, flops


def spec_of(config: Config, path: Path, data_path: str | None = None) -> StudySpec:
    """The parts of a study's spec that a configuration keeps, checked by the same rules."""
    data = {name: value for name, value in config.data.items() if name not in ("accuracy", "fingerprint")}
    if data_path is not None:
        data = {name: value for name, value in data.items() if name != "source"} | {"path": data_path}
    document: dict[str, Any] = {
        "name": "replay",
        "backbone": {name: config.backbone[name] for name in ("name", "weights")},
        "data": data,
        "objectives": {"accuracy": config.data.get("accuracy", "top1")},
        "runtime": dict(config.runtime),
    }
    return make_spec(document, str(path))


def _images(spec: StudySpec, config: Config, backbone: Backbone) -> tuple[Images, bool]:
    """The recorded search split; every image of the folder if it is another folder than the recorded one."""
    wanted = config.data.get("fingerprint")
    if wanted is None:  # written by hand, say: the recorded split, but nothing proves that the images are the same
        return open_images(spec.data, spec.objectives, backbone), False
    try:
        images = open_images(spec.data, spec.objectives, backbone)
    except InputError:
        images = open_all(spec.data, spec.objectives, backbone)  # fails again if it was not for the size
    if images.fingerprint == wanted:
        return images, True
    return open_all(spec.data, spec.objectives, backbone), False


def _compare(config: Config, bench: Bench, same: bool, accuracy: float | None, flops: int | None) -> Replay:
    measured = bench.measure(config.schedule, bench.time(config.schedule))
    equal = measured.accuracy.value == accuracy and measured.flops == flops
    return Replay(measured, accuracy, flops, same, equal if same else None)
