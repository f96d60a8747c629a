"""Measure an exported configuration again, on the same images and in the same number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from search.evaluation.calibrator import UNPRUNED
from search.evaluation.data.splits import Images, open_all, open_images
from search.evaluation.device import choose_device
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.runtimes import FLOAT32, INT8, find_runtime
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.types import Latency, Measurement


@dataclass(frozen=True)
class Replay:
    """What was measured now, beside what the file recorded.

    same_images: whether the images are those of the record (fingerprint); only then must the numbers agree.
    reproduced: accuracy equal exactly and FLOPs equal to the integer; None if the images differ or are not comparable.
    recorded_dtype: the number format of the record, and its runtime; "" where that is what was measured in now.
    precision_gain: how many times as fast the unpruned model is at the deployment's precision as in float32; None
        where that is the same. dense_latencies: of the dense model in float32, where it runs elsewhere than in torch.
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
    precision_gain: float | None = None
    dense_latencies: tuple[Latency, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether it was recorded in the number format that was measured in now."""
        return not self.recorded_dtype

    @property
    def same_flops(self) -> bool:
        """FLOPs depend on neither images nor number format."""
        return self.measured.flops == self.recorded_flops


def replay(path: Path, data_path: str | None = None, deployment: Mapping[str, Any] | None = None) -> Replay:
    """Evaluate an exported configuration. data_path: other images than those it was found on, of any form.

    deployment: where, as in a study's section of that name; without it as recorded. What runs elsewhere than in torch,
    or in another number format, is not compared with the record, but for float32 in ONNX Runtime.
    Raises ConfigError, ScheduleError, WeightsError, UnsupportedBackbone, DeploymentError or InputError naming file,
    field and value.
    """
    config = read_config(path)
    recorded = _recorded(config, path)
    deployment = dict(config.deployment) if deployment is None else dict(deployment)
    if deployment:
        place = f"{path}: deployment.runtime" if "runtime" in config.deployment else "--runtime"
        find_runtime(str(deployment.get("runtime")), place, str(deployment.get("precision", FLOAT32)))
        if (kind := config.data.get("accuracy")) in WITH_GALLERY:
            rule = f"must be torch for a configuration whose accuracy is {kind}"
            remedy = "what is exported gives the model's output, not pooled features"
            raise InputError(place, rule, deployment.get("runtime"), remedy)
    spec = spec_of(config, path, data_path, deployment)
    deployed, recorded_dtype = spec.deployed, str(config.runtime.get("dtype", FLOAT32))
    same_format = deployed is None or (deployed.runtime != "openvino" and deployed.precision == recorded_dtype)
    other_dtype = "" if same_format else f"{recorded_dtype} in torch"
    backbone = load_backbone_of(config, str(path))  # refuses what does not fit before anything is timed
    images, same = _images(spec, config, backbone)
    evaluator = ScheduleEvaluator(
        EvaluationContext(spec, backbone, images, choose_device("cpu" if deployed else spec.runtime.device))
    )
    evaluator.context.set_model(spec.runtime.dtype)
    evaluator.use(
        Calibration(
            dtype=spec.runtime.dtype,
            dtype_reason="recorded",
            hardware=evaluator.context.hardware,
            weights=backbone.fingerprint,
            images=images.fingerprint,
            dense_images_per_s=evaluator.context.time_pairs(UNTOUCHED).dense_images_per_s,
            profile=None,
        )
    )
    gain = None
    if deployed:
        measured = evaluator.measure_deployed(config.schedule)
        gain = None if deployed.precision == FLOAT32 else evaluator.speed.time(UNPRUNED).speedup
    else:
        measured = evaluator.measure(config.schedule, evaluator.speed.time(config.schedule))
    evaluator.warn_at_chance(measured.accuracy)
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
        precision_gain=gain,
        dense_latencies=evaluator.speed.latencies(UNTOUCHED),
    )


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


def spec_of(
    config: Config, path: Path, data_path: str | None = None, deployment: Mapping[str, Any] | None = None
) -> StudySpec:
    """The parts of a study's spec that a configuration keeps, checked by the same rules.

    deployment: if not empty, where to run it instead of in torch in the recorded format.
    """
    data, objectives = split_recorded(config.data.items())
    if data_path is not None:
        data = {name: value for name, value in data.items() if name != "source"} | {"path": data_path}
    document: dict[str, Any] = {
        "name": "replay",
        "backbone": {name: config.backbone[name] for name in ("name", "weights")}
        | config.options
        | ({} if config.backbone["weights"] in WEIGHTS else {"weights_key": config.weights_key}),
        "data": data,
        "objectives": objectives,
        "runtime": {"dtype": FLOAT32, **config.runtime},  # as `pruning.load` has it
    }
    if deployment:
        precision = deployment.get("precision", FLOAT32)
        sizes = dict.fromkeys([config.runtime.get("batch_size", 64), 1])
        document["deployment"] = {"batch_sizes": list(sizes), **deployment}
        document["runtime"] |= {"dtype": FLOAT32 if precision == INT8 else precision, "device": "cpu"}
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
