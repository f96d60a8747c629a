"""Backbones whose blocks know where a token is, in the evaluator with its prefix cache, and in the latency profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import nn

from pruning.architectures import describe
from pruning.backbones import Backbone
from pruning.model import PrunedViT, prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.data.splits import Split
from search.evaluation.evaluator import Evaluator
from search.evaluation.latency_profiler import measure_profile
from search.evaluation.profile_cases import stage_kinds

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "img_size": 28,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 24,
    "num_heads": 3,
    "depth": 5,
    "global_pool": "token",
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "rotary": lambda: Eva(use_rot_pos_emb=True, use_abs_pos_emb=False, **SIZES),
    "bias": lambda: Beit(use_rel_pos_bias=True, use_abs_pos_emb=False, **SIZES),
}
SCHEDULES = [  # the first runs from the images, the others from what is kept of it
    Schedule([Stage(2, 0.5), Stage(3, 0.5)]),
    Schedule([Stage(3, 0.3)]),
    Schedule([Stage(1, 0.6), Stage(2, 0.5)], "cls-attention"),
    UNTOUCHED,
]


@pytest.fixture(params=MODELS)
def positional(request: pytest.FixtureRequest, backbone: Backbone) -> Backbone:
    model = MODELS[request.param]()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # biases stay zero: drawn, they would put every image into one class
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return replace(backbone, model=model.eval().requires_grad_(False), family=describe(model))


@pytest.mark.parametrize("cache", [0, 10_000_000])
def test_is_one_image_at_a_time(positional: Backbone, split: Split, cache: int) -> None:
    evaluator = Evaluator(PrunedViT(positional.model).eval(), split, "top1", 4, CPU, cache)
    logits = []
    for schedule in SCHEDULES:
        model = prune(positional.model, schedule)
        with torch.inference_mode():
            expected = [int(model(split.batch(i, i + 1))[0].argmax()) for i in range(len(split))]
        assert evaluator.predictions(schedule).tolist() == expected
        with torch.inference_mode():
            logits.append(model(split.batch(0, 4)))
    assert not torch.allclose(logits[0], logits[-1], atol=1e-3)  # pruned and dense: so the above says something


def test_is_profiled(positional: Backbone, split: Split) -> None:
    model = PrunedViT(positional.model).eval()
    found = measure_profile(model, split.batch(0, 4), stage_kinds(["zero-tprune"], {}, model), fewest=5)
    assert found.tokens[-1] == 49
    assert found.predict(UNTOUCHED).speedup == pytest.approx(1)
    assert found.latency_ms(SCHEDULES[0]) > 0
