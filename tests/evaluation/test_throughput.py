"""Paired timing: its arithmetic, its order, and that two processes never time at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pruning.backbones import Backbone
from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.evaluation.data.splits import Split
from search.evaluation.throughput import PairedTiming, exclusive, measured, time_pairs


def test_arithmetic() -> None:
    # ratios 2, 4, 1, 2, 3: median 2; inclusive quartiles of 1 2 2 3 4 are 2 and 3
    timing = PairedTiming(images=10, dense=(2.0, 4.0, 1.0, 2.0, 3.0), pruned=(1.0, 1.0, 1.0, 1.0, 1.0))
    assert timing.speedup == 2.0
    assert timing.spread == (3 - 2) / 2 / 2
    assert timing.dense_images_per_s == 10 / 2.0
    record = measured(timing, dense_images_per_s=150.0)
    assert (record.images_per_s, record.speedup, record.spread) == (300.0, 2.0, 0.25)
    assert (record.how, record.repeats) == ("measured", 5)


def test_a_common_drift_cancels() -> None:
    drift = [1.0, 1.7, 3.1, 0.6, 2.2]
    timing = PairedTiming(8, tuple(3 * d for d in drift), tuple(2 * d for d in drift))
    assert timing.speedup == pytest.approx(1.5)
    assert timing.spread == pytest.approx(0.0)


def test_half_the_tokens_are_faster(backbone: Backbone, split: Split) -> None:
    images = split.batch(0, 8)
    timing = time_pairs(PrunedViT(backbone.model).eval(), Schedule([Stage(0, 0.1)], "random"), images, repeats=5)
    assert len(timing.dense) == len(timing.pruned) == 5
    assert timing.images == 8
    assert timing.speedup > 1.5  # 20 of 197 tokens in 11 of 12 blocks: three times on a quiet machine


def test_lock_is_one_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = []
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        with exclusive(torch.device(device)):
            names += [path.name for path in tmp_path.iterdir() if path.name not in names]
    assert names == ["ztp-timing-cpu0.lock", "ztp-timing-cuda0.lock", "ztp-timing-cuda1.lock"]


HOLD = """
import sys, time, torch
from search.evaluation.throughput import exclusive
with exclusive(torch.device("cpu")):
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def test_lock_keeps_another_process_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("search.evaluation.throughput.SAY_AFTER_S", 0.1)
    held_s = 0.7
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(held_s)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        began = time.monotonic()
        with exclusive(torch.device("cpu")):
            waited = time.monotonic() - began
    assert process.wait() == 0
    assert waited > held_s / 2
    (said,) = caplog.messages  # once, however long it takes
    assert said.startswith("waiting: another process is timing on this machine's cpu")
    with exclusive(torch.device("cpu")):  # free again
        assert len(caplog.messages) == 1
