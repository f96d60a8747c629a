"""Measure an exported configuration again, on the same images and in the same number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pruning.backbones import Backbone
from pruning.config import Config, load_backbone_of, read_config
from pruning.schedule import UNTOUCHED
from search.config.objectives import WITH_GALLERY, split_recorded
from search.config.sections import WEIGHTS
from search.config.spec import StudySpec, make_spec
from search.errors import InputError
from search.evaluation.calibration import Calibration
from search.evaluation.data.splits import Images, open_all, open_images
from search.evaluation.device import choose_device
from search.evaluation.onnx_runtime import ONNXRUNTIME
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.extras import check_extra
from search.types import Measurement


@dataclass(frozen=True)
class Replay:
    """What was measured now, beside what the file recorded.

    same_images: whether the images are those of the record (fingerprint); only then must the numbers agree.
    reproduced: accuracy equal exactly and FLOPs equal to the integer; None if the images differ or are not comparable.
    recorded_dtype: the number format of the record; "" where that is what was measured in now.
    labels: how they became the backbone's classes. preprocessing: see `Backbone`.
    """

    measured: Measurement
    recorded_accuracy: float | None
    recorded_flops: int | None
    same_images: bool
    reproduced: bool | None
    split: str = "search"
    recorded_dtype: str = ""
    labels: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether it was recorded in the number format that was measured in now."""
        return not self.recorded_dtype

    @property
    def same_flops(self) -> bool:
        """FLOPs depend on neither images nor number format."""
        return self.measured.flops == self.recorded_flops


RUNTIMES = ("torch", ONNXRUNTIME)


def replay(path: Path, data_path: str | None = None, runtime: str = "torch") -> Replay:
    """Evaluate an exported configuration. data_path: other images than those it was found on, of any form.

    runtime: one of RUNTIMES. ONNX Runtime computes in float32, so a record in another format is not compared.
    Raises ConfigError, ScheduleError, WeightsError, UnsupportedBackbone or InputError naming file, field and value.
    """
    deployed = _is_onnxruntime(runtime)
    config = read_config(path)
    recorded = _recorded(config, path)
    spec = spec_of(config, path, data_path)
    other_dtype = spec.runtime.dtype if deployed and spec.runtime.dtype != "float32" else ""
    if deployed and spec.objectives.accuracy in WITH_GALLERY:
        rule = f"must be torch for a configuration whose accuracy is {spec.objectives.accuracy}"
        raise InputError("--runtime", rule, runtime, "what is exported gives the model's output, not pooled features")
    if deployed:
        spec = _for_onnxruntime(spec)
    backbone = load_backbone_of(config, str(path))  # refuses what does not fit before anything is timed
    images, same = _images(spec, config, backbone)
    bench = ScheduleEvaluator(spec, backbone, images, choose_device(spec.runtime.device))
    bench.use(
        Calibration(
            dtype=spec.runtime.dtype,
            dtype_reason="recorded",
            hardware=bench.hardware,
            weights=backbone.fingerprint,
            images=images.fingerprint,
            dense_images_per_s=0.0,  # not known yet
            profile=None,
        )
    )
    bench.use(replace(bench.facts, dense_images_per_s=bench.time_pairs(UNTOUCHED).dense_images_per_s))
    if deployed:
        measured = bench.measure_deployed(config.schedule)
    else:
        measured = bench.measure(config.schedule, bench.time(config.schedule))
    bench.warn_at_chance(measured.accuracy)
    equal = (measured.accuracy.value, measured.flops) == recorded
    reproduced = equal if same and not other_dtype else None
    return Replay(
        measured,
        *recorded,
        same,
        reproduced,
        recorded_dtype=other_dtype,
        labels=images.classes,
        preprocessing=backbone.preprocessing,
    )


def _is_onnxruntime(runtime: str) -> bool:
    """Raises InputError for a runtime that is not known or not installed."""
    if runtime not in RUNTIMES:
        raise InputError("--runtime", f"must be one of {', '.join(RUNTIMES)}", repr(runtime))
    if runtime == ONNXRUNTIME:
        check_extra(f"--runtime {ONNXRUNTIME}", "onnx")
    return runtime == ONNXRUNTIME


def _for_onnxruntime(spec: StudySpec) -> StudySpec:
    document = spec.to_dict()
    document["objectives"]["throughput"] = ONNXRUNTIME
    document["runtime"] |= {"dtype": "float32", "device": "cpu"}
    return make_spec(document, spec.name)


def _recorded(config: Config, path: Path) -> tuple[float | None, int | None]:
    """Accuracy and FLOPs as the file has them; None for what a file written by hand leaves out. Raises InputError."""
    search = config.metrics.get("search") or {}
    if not isinstance(search, Mapping):
        raise InputError("metrics.search", "must be a mapping", repr(search), "export it again", source=path)
    accuracy, flops = search.get("accuracy"), config.metrics.get("flops")
    for name, value in (("metrics.search.accuracy", accuracy), ("metrics.flops", flops)):
        if value is not None and type(value) not in (int, float):
            raise InputError(name, "must be a number", repr(value), "export it again", source=path)
    return accuracy, flops


def spec_of(config: Config, path: Path, data_path: str | None = None) -> StudySpec:
    """The parts of a study's spec that a configuration keeps, checked by the same rules."""
    data, objectives = split_recorded(config.data.items())
    if data_path is not None:
        data = {name: value for name, value in data.items() if name != "source"} | {"path": data_path}
    document: dict[str, Any] = {
        "name": "replay",
        "backbone": {name: config.backbone[name] for name in ("name", "weights")}
        | config.options
        | _weights_key(config),
        "data": data,
        "objectives": objectives,
        "runtime": dict(config.runtime),
    }
    return make_spec(document, str(path))


def _weights_key(config: Config) -> dict[str, str]:
    return {} if config.backbone["weights"] in WEIGHTS else {"weights_key": config.weights_key}


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
