"""A whole search for each kind of accuracy that compares images or texts, from the first trial to the front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRIALS = 6


@pytest.mark.parametrize("kind", ["knn", "zero-shot", "embedding"])
def test_a_study_searches_by_it(
    start: Callable[..., Any],
    tiny_spec: Callable[..., Any],
    check_sound: Callable[..., None],
    kind: str,
    tmp_path: Path,
) -> None:
    objectives: dict[str, Any] = {"accuracy": kind}
    if kind == "zero-shot":
        np.savez(tmp_path / "t.npz", embeddings=np.eye(10, dtype=np.float32))
        objectives["text"] = str(tmp_path / "t.npz")
    else:
        objectives |= {"gallery_images": 40} | ({"k": 3} if kind == "knn" else {})
    started = start(tiny_spec(objectives=objectives, budget={"trials": TRIALS}))
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    worker.run(lambda progress: None)
    check_sound(started.store, "tiny", TRIALS)
    found = [row.search for row in started.store.evaluations(started.record.id)]
    assert {each.accuracy.kind for each in found} == {kind}
    front = started.store.front(started.record.id)
    assert front is not None
    assert front.points
    assert all(point.search.complete and point.search.fidelity is not None for point in front.points)
