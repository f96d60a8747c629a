"""Studies that contradict the contract, by themselves or against the bundled backbone; and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.bad_input.documents import DEMO, Row, changed

# A study that contradicts the contract, by itself or against the bundled backbone

STUDIES: list[Row] = [
    ({"budgets": {"trials": 3}}, "budgets is not a known key", "did you mean budget?"),
    ({"budget.trails": 3}, "budget.trails is not a known key", "did you mean trials?"),
    (
        {"space.methods": ["zero-prune"]},
        "space.methods must hold only known methods",
        "zero-tprune",
        "got ['zero-prune']",
    ),
    ({"space.methods": []}, "space.methods must be a list of one or more of", "got []"),
    ({"space.methods": ["random", "random"]}, "space.methods must name each method once", "got ['random', 'random']"),
    ({"space.keep": [0.5, 1.4]}, "space.keep must hold numbers in (0, 1]", "got [0.5, 1.4]"),
    ({"space.keep": [0, 1]}, "space.keep must hold numbers in (0, 1]", "got [0, 1]"),
    ({"space.keep": [0.9, 0.5]}, "space.keep must be [low, high] with low at most high", "got [0.9, 0.5]"),
    ({"space.keep": [1.0, 1.0]}, "space.keep must reach below 1", "got [1.0, 1.0]"),
    ({"space.keep": 0.7}, "space.keep must be [low, high]", "got 0.7"),
    (
        {"space.methods": ["random"], "space.keep": [0.001, 1.0], "space.max_stages": 1},
        "space.keep must leave",
        "after 1 stage",
        "0.001",
        "raise",
    ),
    ({"space.blocks": [5, 2]}, "space.blocks must be [low, high] with low at most high", "got [5, 2]"),
    ({"space.blocks": [-1, 5]}, "space.blocks must hold whole numbers from 0", "got [-1, 5]"),
    ({"space.blocks": [0, 11]}, "space.blocks must end at 10 or below", "12 blocks", "got [0, 11]", "lower it"),
    ({"space.max_stages": 0}, "space.max_stages", "got 0"),
    ({"space.blocks": [3, 4], "space.max_stages": 3}, "max_stages 3 for the 2 blocks of [3, 4]", "lower"),
    ({"space.wpr_iterations": [0, 5]}, "space.wpr_iterations must hold whole numbers in 1..100", "got [0, 5]"),
    ({"space.wpr_iterations": [1, 101]}, "space.wpr_iterations must hold whole numbers in 1..100", "got [1, 101]"),
    ({"space.wpr_iterations": [1.5, 3]}, "space.wpr_iterations must be [low, high], two whole numbers", "1.5"),
    ({"space.partition": [0.0, 0.5]}, "space.partition must hold numbers in (0, 1)", "got [0.0, 0.5]"),
    ({"space.similarity_share": [0.0, 1.5]}, "space.similarity_share must hold numbers in [0, 1]", "got [0.0, 1.5]"),
    ({"budget.trials": 0}, "budget.trials must be at least 1", "got 0", "default is 200"),
    ({"budget.trials": 10**400}, "budget.trials must be at most 1000000", "default is 200"),
    ({"budget.trials": "many"}, "budget.trials", "got 'many'"),
    ({"budget.trials": True}, "budget.trials", "got True"),
    ({"budget.time": "3 minutes"}, "budget.time must be a duration above zero such as 90s", "got '3 minutes'"),
    ({"budget.time": "0s"}, "budget.time must be a duration above zero", "got '0s'"),
    ({"budget.time": 180}, "budget.time must be a duration", "got 180"),
    ({"budget.max_gflops": -1.0}, "budget.max_gflops must be above 0", "got -1.0"),
    ({"budget.max_gflops": 0.001}, "mine: budget.max_gflops must be at least", "got 0.001", "raise it"),
    ({"budget.min_speedup": 0}, "budget.min_speedup must be above 0", "got 0"),
    ({"budget.max_accuracy_drop": 5.0}, "budget.max_accuracy_drop must be at most 1", "got 5.0"),
    ({"sampler.name": "nsga3"}, "sampler.name must be one of", "nsga2", "got 'nsga3'"),
    ({"sampler.seed": -1}, "sampler.seed", "got -1"),
    ({"objectives.accuracy": "top5"}, "objectives.accuracy must be 'top1', 'agreement', 'knn'", "got 'top5'"),
    ({"objectives.throughput": "guessed"}, "objectives.throughput", "'measured' or 'onnxruntime'", "got 'guessed'"),
    (
        {"objectives.throughput": "onnxruntime", "runtime.dtype": "bfloat16"},
        "runtime.dtype must be auto or float32 for objectives.throughput onnxruntime",
        "got 'bfloat16'; leave it out",
    ),
    (
        {"objectives.throughput": "onnxruntime", "runtime.device": "cuda"},
        "runtime.device must be auto or cpu for objectives.throughput onnxruntime",
        "got 'cuda'",
    ),
    ({"deployment": {"runtime": "tflite"}}, "deployment.runtime must be one of torch, onnxruntime", "got 'tflite'"),
    ({"deployment": {"runtime": "executorch"}}, "deployment.runtime must be one of", "no kernel for", "'executorch'"),
    ({"deployment": {"runtime": "tensorrt"}}, "deployment.runtime must be one of", "needs a CUDA GPU", "'tensorrt'"),
    ({"deployment": {"runtime": "torch", "precision": "int8"}}, "mine: deployment.precision must be", "got int8"),
    (
        {"deployment": {"runtime": "onnxruntime", "precision": "bfloat16"}},
        "mine: deployment.precision must be float32 or int8 with ONNX Runtime",
        "got bfloat16",
    ),
    ({"deployment": {"runtime": "torch", "batch_sizes": [1, 1]}}, "deployment.batch_sizes must be", "got [1, 1]"),
    ({"runtime.device": "gpu"}, "runtime.device must be auto, cpu", "got 'gpu'"),
    ({"runtime.dtype": "int8"}, "runtime.dtype", "'float32'", "got 'int8'"),
    ({"runtime.batch_size": 0}, "runtime.batch_size", "got 0"),
    ({"runtime.batch_size": 10**30}, "runtime.batch_size must be at most 65536", f"got {10**30}"),
    ({"runtime.workers": 10**6}, "runtime.workers must be at most 1024", "got 1000000"),
    ({"runtime.workers": 0}, "runtime.workers", "got 0"),
    ({"data.path": "images"}, "data must have either path", "got both"),
    ({"data.search_images": 0}, "data.search_images", "got 0"),
    ({"data.search_images": 2001}, "data must ask for at most 10000 bundled images", "search_images 2001", "lower one"),
    ({"backbone.weights": "pretrained"}, "backbone.weights must be bundled", "got 'pretrained'"),
    ({"backbone": {}}, "backbone.name is required", "demo"),
    ({"backbone": "demo"}, "backbone", "got 'demo'"),
    ({"name": "a/b"}, "name must be letters, digits", "got 'a/b'"),
    ({"name": ""}, "name must be letters, digits", "got ''"),
]


@pytest.mark.parametrize("row", STUDIES, ids=lambda row: str(row[0]))
def test_studies(refused: Callable[..., None], row: Row) -> None:
    changes, *words = row
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, changes)))
    refused(["launch", "study.yaml"], *words)


def test_a_refused_study_names_its_file(refused: Callable[..., None]) -> None:
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, {"budget.trials": 0})))
    refused(["launch", "study.yaml"], "ztp: study.yaml: budget.trials")


# Files that are no study

FILES: list[Row] = [
    (b"name: [unclosed", "study.yaml:1:16: must be valid YAML"),
    (b"name: a\nname: b\n", "study.yaml:2:1: must be valid YAML: key 'name' stands twice; remove one"),
    (b"\xff\xfe", "study.yaml: must be UTF-8 text"),
    (b"- name\n- backbone\n", "study.yaml: a study must be a mapping with name and backbone, got ['name', 'backbone']"),
    (b"", "study.yaml: a study must be a mapping with name and backbone, got None"),
    (b"name: mine\n", "study.yaml: backbone is required; for example"),
    (
        b"name: mine\nbackbone: {name: vit_tiny_patch16_224}\n",
        "study.yaml: data is required; give data: {path: FOLDER}",
    ),
]


@pytest.mark.parametrize("row", FILES, ids=lambda row: repr(row[0][:20]))
def test_files(refused: Callable[..., None], row: Row) -> None:
    content, *words = row
    Path("study.yaml").write_bytes(content)
    refused(["launch", "study.yaml"], *words)
