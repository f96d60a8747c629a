"""`torch.compile` on a pruned model: one compilation a schedule, and one warning that says so."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pruning.deployment import export_program
from pruning.model import PrunedViT, prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage

FIRST = Schedule([Stage(0, 0.7)])
OTHERS = (
    Schedule([Stage(1, 0.5)], "tome"),
    Schedule([Stage(1, 0.5)], "tome", {"proportional": False}),
    UNTOUCHED,
)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model() -> PrunedViT:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, num_heads=3, depth=3, num_classes=5)
    return prune(vit, FIRST)


def graphs() -> int:
    """Compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@torch.inference_mode()
def run(compiled: Any) -> tuple[Tensor, list[str]]:
    """Logits, and what was warned of by us."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logits = compiled(IMAGES)
    return logits, [text for each in caught if "torch.compile" in (text := str(each.message))]


def test_each_assigned_schedule_costs_one_compilation_and_one_warning(model: PrunedViT) -> None:
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # a graph break would be an error
    assert run(compiled)[1] == []  # that the first call compiles is what was asked for
    assert graphs() == 1
    for count, schedule in enumerate(OTHERS, start=2):
        model.schedule = schedule
        logits, told = run(compiled)
        assert len(told) == 1
        assert str(schedule) in told[0]
        assert "compiles this model anew for the schedule that was assigned" in told[0]
        assert run(compiled)[1] == []
        assert graphs() == count
        with torch.inference_mode():
            torch.testing.assert_close(logits, model(IMAGES))


def test_a_schedule_that_was_compiled_before_costs_nothing(model: PrunedViT) -> None:
    compiled = torch.compile(model, backend="eager")
    for schedule in (*OTHERS, FIRST):
        model.schedule = schedule
        run(compiled)
    known = graphs()
    for schedule in (FIRST, *OTHERS, Schedule([Stage(0, 0.7)])):
        model.schedule = schedule
        assert run(compiled)[1] == []
    assert graphs() == known


def test_another_batch_size_and_another_model_are_no_other_schedule(model: PrunedViT) -> None:
    compiled = torch.compile(model, backend="eager")
    run(compiled)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        compiled(IMAGES[:1])
        other = PrunedViT(copy.deepcopy(model.backbone), OTHERS[0]).eval()
        torch.compile(other, backend="eager")(IMAGES)


def test_nothing_is_said_where_nothing_is_compiled(model: PrunedViT) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile")
        for schedule in (FIRST, *OTHERS):
            model.schedule = schedule
            with torch.inference_mode():
                model(IMAGES)
            export_program(model)
