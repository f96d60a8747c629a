"""Exported programs, ONNX and OpenVINO models against the eager model: every method, any batch, ties, refusals."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest
import torch
from onnx import checker, load_model
from torch import Tensor, nn

import pruning
from pruning.architectures import describe
from pruning.backbones import DEMO_MEAN, load_backbone
from pruning.config import Config
from pruning.deployment import export_config, export_onnx, export_openvino, export_program, openvino_export, to_onnx
from pruning.deployment.onnx_export import convert, in_float32
from pruning.deployment.program import trace
from pruning.errors import DeploymentError, ScheduleError, WeightsError
from pruning.methods import METHODS
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.selection import ascending, keep_highest
from pruning.stage import Stage

TOLERANCE = 1e-4  # absolute, on float32 logits
Row = tuple[str, dict[str, Any]]
# what each row adds to the defaults: drops; an order by places; float64 and int64 draws; one step alone
OPTIONS: list[Row] = [
    ("zero-tprune", {"similarity": "drop", "unimportant": "drop", "personalized": False, "feature": "key"}),
    ("zero-tprune", {"split": "places", "metric": "euclidean", "feature": "input", "aggregation": "mean"}),
    ("zero-tprune", {"split": "random", "metric": "dot", "feature": "value", "head_filter": True, "temperature": 0.5}),
    ("zero-tprune", {"importance": False, "feature": "query", "weight": "rank", "drop": "block-end"}),
    ("zero-tprune", {"similarity": "off", "unimportant": "drop", "personalized": False, "class_start": False}),
    ("tome", {"halves": "patches", "proportional": False}),
    ("ppt", {"threshold": 0.001}),
    ("cls-attention", {"fuse": True, "value_norm": True}),
    ("random", {"seed": 3}),
]
ROWS: list[Row] = [*((method, {}) for method in METHODS), *OPTIONS]
PAIRS = list(zip(ROWS[::2], ROWS[1::2], strict=True))  # an export takes seconds: two rows in each
SIZES = (1, 2, 5)


def pair(first: Row, second: Row) -> Schedule:
    """Each row a stage of its own."""
    stages = [Stage(0, 0.8, 3, 0.6, 0.5, *first), Stage(1, 0.6, 2, 0.6, 0.5, *second)]
    return Schedule(stages, "random")


MIXED = pair(("ppt", {}), ("zero-tprune", {"personalized": False}))
UNCLASSED = pair(("tome", {}), ("zero-tprune", {}))
# what each adds: other heads that pool what was merged; tokens read; keys that are normed, shared, turned or biased
TRAITS: dict[str, dict[str, Any]] = {
    "no_class_token": {},
    "gap_beside_class_token": {"global_pool": "avgmax"},
    "attention_pool": {},
    "registers": {},
    "layer_scale": {},
    "distilled": {},
    "qk_norm": {},
    "norms_behind": {},
    "rotary": {"global_pool": "token"},
    "rotary_by_block": {},
    "rotary_shared_keys": {"global_pool": "token"},
    "bias_by_block": {"global_pool": "token"},
    "bias_shared": {},
    "mlp_bias_class_token": {},
    "table_bias": {"global_pool": "token"},
}
IN_ONNX = ("attention_pool", "rotary_by_block", "bias_by_block")


def batch(size: int, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(size, channels, side, side, generator=torch.Generator().manual_seed(size))


def open_session(source: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    (logits,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(logits)


def check(answer: Callable[[Tensor], Tensor], pruned: PrunedViT) -> None:
    for size in SIZES:
        torch.testing.assert_close(answer(batch(size)), pruned(batch(size)), atol=TOLERANCE, rtol=0)


def check_session(session: onnxruntime.InferenceSession, pruned: PrunedViT) -> None:
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    check(lambda images: run(session, images), pruned)


def compiled(model: Any) -> Callable[[Tensor], Tensor]:
    """By OpenVINO, which would otherwise compute in bfloat16 where the processor can."""
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda given: torch.from_numpy(run(given.numpy())[0].copy())


def check_program(pruned: PrunedViT, in_onnx: bool = True) -> None:
    """Traced once: in torch, and converted to OpenVINO and ONNX."""
    program = export_program(pruned)
    check(program.module(), pruned)
    if not pruned.draws:
        model = openvino_export.convert(program, [batch(2)])
        assert str(model.input().partial_shape) == "[?,3,32,32]"
        check(compiled(model), pruned)
    if in_onnx:
        check_session(open_session(convert(program, ["images"], "logits").model_proto.SerializeToString()), pruned)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{i}-{a[0]}-{b[0]}" for i, (a, b) in enumerate(PAIRS)])
def test_every_method_gives_the_eager_logits_for_any_batch(
    make_vit: Callable[..., nn.Module], first: Row, second: Row
) -> None:
    pruned = prune(make_vit(), pair(first, second))
    assert pruned.is_saving
    check_program(pruned)


@pytest.mark.parametrize(("trait", "overrides"), TRAITS.items())
def test_every_kind_of_head_and_block_goes_with_a_mixed_schedule(
    make_vit: Callable[..., nn.Module], trait: str, overrides: dict[str, Any]
) -> None:
    model = make_vit(trait, **overrides)
    check_program(prune(model, MIXED if describe(model).class_token else UNCLASSED), trait in IN_ONNX)


@pytest.mark.parametrize("trait", ["bias_by_block", "bias_shared"])
def test_weights_that_are_trained_export_alike(make_vit: Callable[..., nn.Module], trait: str) -> None:
    """As timm makes models, and as they are after fine-tuning."""
    pruned = prune(make_vit(trait, **TRAITS[trait]).requires_grad_(True), UNCLASSED)
    with torch.no_grad():
        check_session(
            open_session(to_onnx(pruned, [batch(2)], ["images"], "logits").model_proto.SerializeToString()), pruned
        )


@pytest.mark.parametrize("savings", [True, False])
def test_nothing_dropped_goes_with_savings_and_without(
    make_vit: Callable[..., nn.Module], tmp_path: Path, savings: bool
) -> None:
    pruned = prune(make_vit(), exact_savings=savings)
    assert pruned.is_saving == savings
    check(export_program(pruned).module(), pruned)
    export_onnx(pruned, tmp_path / "best.onnx")
    check_session(open_session(tmp_path / "best.onnx"), pruned)
    assert [path.name for path in tmp_path.iterdir()] == ["best.onnx"]


class Choice(nn.Module):
    """Both orders that methods choose by."""

    def forward(self, scores: Tensor) -> Tensor:
        return torch.cat((ascending(scores), keep_highest(scores, 5), keep_highest((scores > 1).byte(), 5)), dim=1)


def test_ties_go_to_the_lower_token_there_too() -> None:
    scores = torch.randint(0, 3, (64, 40), generator=torch.Generator().manual_seed(0)).float()
    program = to_onnx(Choice(), (scores[:2],), ["scores"], "chosen")
    (chosen,) = open_session(program.model_proto.SerializeToString()).run(None, {"scores": scores.numpy()})
    assert torch.equal(torch.from_numpy(chosen), Choice()(scores))
    run = compiled(openvino_export.to_openvino(Choice(), (scores[:2],)))
    assert torch.equal(run(scores).long(), Choice()(scores))


@pytest.mark.parametrize(("method", "options"), [("random", {}), ("zero-tprune", {"split": "random"})])
def test_what_openvino_would_not_draw_as_torch_does_is_refused(
    make_vit: Callable[..., nn.Module], tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    """Of a product of 64-bit integers it keeps 32 bits."""
    pruned = prune(make_vit(), Schedule([Stage(0, 0.8)], method, options))
    with pytest.raises(DeploymentError, match=r"OpenVINO computes 64-bit integers in 32 bits.* or export it as ONNX"):
        export_openvino(pruned, tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_a_reduction_that_openvino_would_take_for_another_is_refused() -> None:
    class Sums(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.zeros_like(values).scatter_reduce(1, torch.zeros_like(values).long(), values, "sum")

    with pytest.raises(DeploymentError, match=r"OpenVINO cannot run this model: scatter_reduce by sum has no rule"):
        openvino_export.convert(trace(Sums(), (torch.ones(2, 3),)), [torch.ones(2, 3)])
    run = compiled(openvino_export.to_openvino(Sums(), (torch.ones(2, 3),)))  # through ONNX
    assert run(torch.ones(4, 3)).tolist() == [[3.0, 0.0, 0.0]] * 4


def test_narrow_weights_are_widened(make_vit: Callable[..., nn.Module], tmp_path: Path) -> None:
    schedule = Schedule([Stage(0, 0.8)], "cls-attention")
    narrow = prune(make_vit().bfloat16(), schedule)
    export_onnx(narrow, tmp_path / "best.onnx")
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}  # the caller's own stays
    widened = prune(make_vit().bfloat16().float(), schedule)
    torch.testing.assert_close(
        run(open_session(tmp_path / "best.onnx"), batch(2)), widened(batch(2)), atol=TOLERANCE, rtol=0
    )


def test_widened_weights_save_what_the_narrow_ones_did(make_vit: Callable[..., nn.Module]) -> None:
    for savings in (True, False):
        assert in_float32(prune(make_vit().bfloat16(), exact_savings=savings)).is_saving == savings


def config(**changes: Any) -> Config:
    schedule = Schedule([Stage(6, 0.5)], "cls-attention")
    metrics = {"search": {"accuracy": 0.9}, "gflops": 0.2}
    fields = {"metrics": metrics, "provenance": {"study": "demo", "trial": 7}, "runtime": {"dtype": "bfloat16"}}
    return Config(**{"backbone": {"name": "demo", "weights": "bundled"}, "schedule": schedule, **fields, **changes})


def test_a_configuration_goes_with_all_it_says(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    export_config(config(), "test", path)
    model = load_model(path)
    checker.check_model(model, full_check=True)
    words = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert words["schedule"] == config().schedule.to_dict()
    assert words["metrics"] == config().metrics
    assert words["provenance"] == {"study": "demo", "trial": 7}
    assert words["preprocessing"]["mean"] == list(DEMO_MEAN)
    assert words["preprocessing"]["input_size"] == words["image_shape"] == [1, 28, 28]
    assert words["classes"] == 10
    images = batch(3, 1, 28)
    eager = prune(load_backbone("demo").model, config().schedule)  # float32, though measured in bfloat16
    torch.testing.assert_close(run(open_session(path), images), eager(images), atol=TOLERANCE, rtol=0)

    config(runtime={"dtype": "float32"}).write(tmp_path / "best.yaml")  # the other way: read, then exported
    program = export_program(pruning.load(tmp_path / "best.yaml")).module()
    torch.testing.assert_close(program(images), eager(images), atol=TOLERANCE, rtol=0)


REFUSED: list[tuple[str, str]] = [
    ("no/best.onnx", "no/best.onnx: cannot be written: No such file or directory; choose a writable folder"),
    ("/proc/best.onnx", "/proc/best.onnx: cannot be written"),
    ("best.pb", "best.pb: an ONNX file must end in .onnx, got 'best.pb'; rename it"),
    ("folder.onnx", "folder.onnx: must be a file, got a folder; choose another name"),
]


@pytest.mark.parametrize(("path", "message"), REFUSED)
def test_a_path_that_cannot_be_written(
    make_vit: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.onnx").mkdir()
    for export in (lambda: export_onnx(PrunedViT(make_vit()), path), lambda: export_config(config(), "test", path)):
        with pytest.raises(DeploymentError) as refused:
            export()
        assert message in str(refused.value)
    assert [each.name for each in Path().iterdir()] == ["folder.onnx"]


def test_without_the_exporter_it_says_what_to_install(
    make_vit: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(DeploymentError, match=r"got no onnxscript; pip install 'zero-tprune-search\[onnx\]'"):
        export_onnx(PrunedViT(make_vit()), tmp_path / "best.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wrong = {"name": "demo", "weights": "bundled", "fingerprint": "0" * 16}
    with pytest.raises(WeightsError, match=r"test: backbone\.fingerprint must be that of the weights exported"):
        export_config(config(backbone=wrong), "test", tmp_path / "best.onnx")
    with pytest.raises(ScheduleError, match=r"test: schedule: stages\[0\].block must be at most 10"):
        export_config(config(schedule=Schedule([Stage(11, 0.5)], "random")), "test", tmp_path / "best.onnx")
    assert list(tmp_path.iterdir()) == []
