"""An exported configuration as a model to deploy: an ONNX file, an OpenVINO folder, or a bundle that runs by itself."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from pruning.backbones import Backbone
from pruning.config import Config, load_backbone_of
from pruning.deployment import OPENVINO, PREPROCESSING, export_config
from search.errors import InputError
from search.evaluation.data.label_mapping import SORTED, Classes
from search.evaluation.data.splits import Images, open_images
from search.evaluation.deployed import CALIBRATION_IMAGES
from search.evaluation.reproduce import spec_of
from search.evaluation.runtimes import INT8, find_runtime

PREDICT = "predict.py"
CLASSIFYING = ("top1", "agreement")  # accuracies of models that answer with logits of classes
CROPS = ("center", "squash")  # that predict.py knows
FORMS = {"openvino": OPENVINO}  # of runtimes whose own it is
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What to write. form: onnx or openvino. place: the flag that asks for it."""

    form: str
    int8: bool
    place: str

    def check(self) -> None:
        """Raise InputError if a package that it needs is missing."""
        runtime = "openvino" if self.form == OPENVINO else "onnxruntime"
        if self.form == OPENVINO or self.int8:
            find_runtime(runtime, self.place, INT8 if self.int8 else "float32")


def export_model(config: Config, name: str, path: Path, target: Target) -> None:
    """Write the pruned model. name: of the study, for messages. Raises what `pruning.deployment.export_config` raises,
    and InputError where images to calibrate with are missing."""
    target.check()
    calibration = _calibration(config, name) if target.int8 and target.form == OPENVINO else None
    export_config(config, f"study {name}", path, target.form, target.int8, calibration)


def _calibration(config: Config, name: str) -> NDArray[np.float32]:
    """The first images [N, C, H, W] of the search split."""
    images = _images(config, name, load_backbone_of(config, f"study {name}"))
    found: NDArray[np.float32] = images.search().batch(0, CALIBRATION_IMAGES).numpy()
    return found


def _images(config: Config, name: str, backbone: Backbone) -> Images:
    spec = spec_of(config, Path(f"study {name}"))
    return open_images(spec.data, spec.objectives, backbone)


def export_bundle(config: Config, name: str, folder: Path, target: Target) -> None:
    """Write a folder with all that it takes to deploy the point, and nothing that needs this package.

    config.yaml, the model, preprocessing.json, labels.json (names by class index; none of a model that gives
    embeddings), measured.json, predict.py, and SHA256SUMS over them. Writes a new folder, whole or not at all. Raises
    as `export_model`.
    """
    target.check()
    if folder.exists():
        raise InputError(str(folder), "must not exist yet", remedy="choose another name, or remove it")
    backbone = load_backbone_of(config, f"study {name}")
    preprocessing = {key: backbone.data_config[key] for key in PREPROCESSING}
    if preprocessing["crop_mode"] not in CROPS:
        rule = f"must be {' or '.join(CROPS)} for a bundle"
        raise InputError("backbone.crop_mode", rule, preprocessing["crop_mode"], "export the model alone: --onnx")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / "bundle"
        made.mkdir()
        model = made if target.form == OPENVINO else made / "model.onnx"
        export_model(config, name, model, target)
        config.write(made / "config.yaml")
        _write_json(made / "preprocessing.json", preprocessing)
        _write_json(made / "labels.json", class_labels(config, name, backbone))
        _write_json(made / "measured.json", dict(config.metrics))
        source = resources.files("search.evaluation").joinpath(f"predict_{target.form}.py.txt")
        (made / PREDICT).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(made.iterdir())]
        (made / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
        shutil.move(str(made), str(folder))


def class_labels(config: Config, name: str, backbone: Backbone) -> list[str]:
    """Names by class index: the model's own, or those of the images' labels, or ImageNet's if there are as many
    classes; the index of a class that nothing names. Empty for a model whose answers are embeddings.
    """
    if config.data.get("accuracy", "top1") not in CLASSIFYING:
        return []
    if backbone.class_names:
        return list(backbone.class_names)
    try:
        found = _images(config, name, backbone).source.classes
    except InputError as error:  # exported where the images are not: the model needs none
        LOGGER.warning("study %s: labels.json names no classes of the images' own: %s", name, error)
        found = Classes(None, "none")
    names, subset = dict(found.names), infer_imagenet_subset({"num_classes": backbone.num_classes})
    if subset is not None and found.mapping != SORTED:
        known = ImageNetInfo(subset)
        names = {index: known.index_to_description(index) for index in range(backbone.num_classes)}
    return [names.get(index, str(index)) for index in range(backbone.num_classes)]


def _write_json(path: Path, data: Mapping[str, Any] | list[str]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
