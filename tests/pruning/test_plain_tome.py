"""The benchmark's ToMe, written out plainly, is the method of that name: each checks the other.

It counts its halves over patch tokens. One merge each: the order of the tokens behind it, and with it what a second
merge pairs, is left open by the paper.
"""

from __future__ import annotations

import pytest
import timm
import torch

from pruning import PrunedViT, Schedule, Stage
from tests.benchmarks.plain_tome import PlainToMe


@pytest.mark.parametrize("merges", [(), (8,), (0, 0, 0, 0, 30), (0, 72)])
@torch.inference_mode()
def test_same_logits(merges: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("deit_tiny_patch16_224", img_size=192).double().eval()
    tokens, stages = 144, []
    for block, count in enumerate(merges):
        stages.append(Stage(block, min((tokens - count + 0.5) / tokens, 1.0)))
        tokens -= count
    images = torch.randn(2, 3, 192, 192, dtype=torch.float64)
    ours = PrunedViT(backbone, Schedule(stages, "tome", {"halves": "patches"})).eval()(images)
    assert PlainToMe(backbone, merges)(images).numpy() == pytest.approx(ours.numpy(), abs=1e-5)
    if any(merges):
        assert (ours - backbone(images)).abs().max() > 1e-3
