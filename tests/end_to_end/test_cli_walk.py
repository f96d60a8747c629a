"""The three verbs through the real command line: launch, look at the front, export, and measure the export again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

STUDY = {
    "name": "walk",
    "backbone": {"name": "demo"},
    "data": {"source": "demo", "search_images": 40, "confirm_images": 24},
    "budget": {"trials": 5},
    "space": {"methods": ["zero-tprune"], "max_stages": 3, "keep": [0.4, 1.0], "wpr_iterations": [1, 10]},
    "sampler": {"name": "random"},
    "runtime": {"batch_size": 4, "dtype": "float32", "device": "cpu"},
}


def run(*arguments: str) -> str:
    """What `ztp` prints, run as a user does, with the default storage of the current folder."""
    command = [sys.executable, "-m", "search.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def _without_times(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points by their trials, without what a new clock may change: the times, and whom they let one point dominate."""
    of_time = {"throughput", "speedup", "spread", "disturbed", "estimate", "dominated", "for_flops"}
    timeless = [{key: value for key, value in point.items() if key not in of_time} for point in points]
    for point in timeless:
        point["confirm"] = {key: value for key, value in point["confirm"].items() if key not in of_time}
    return sorted(timeless, key=lambda point: point["trial"])


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_launch_front_export_evaluate(ztp: Callable[..., Any]) -> None:
    """The verbs as processes of their own; what comes after them, `ztp` runs in this one, in the same folder."""
    Path("walk.yaml").write_text(yaml.safe_dump(STUDY))
    assert "ztp export walk" in run("launch", "walk.yaml")
    assert Path("walk-front.png").stat().st_size > 10_000
    assert Path("walk-front.html").is_file()

    front = json.loads(run("front", "walk", "--json"))
    assert front["study"] == "walk"
    assert front["dense"]["gflops"] == pytest.approx(0.353, abs=0.001)
    points = front["points"]
    assert points
    assert [point["throughput"] for point in points] == sorted(point["throughput"] for point in points)
    for point in points:
        low, high = point["accuracy_ci95"]
        assert 0 <= low <= point["accuracy"] <= high <= 1
        assert point["images"] == 40
        assert point["confirm"]["images"] == 24

    run("export", "walk", "--trial", str(points[-1]["trial"]), "-o", "best.yaml")
    exported = yaml.safe_load(Path("best.yaml").read_text())
    assert exported["schedule"] == points[-1]["schedule"]

    replayed = json.loads(run("evaluate", "best.yaml", "--json"))
    assert replayed["reproduced"] is True

    # the same command finds it done; another limit under the same name is refused
    assert ztp("launch", "walk.yaml").code == 0
    refused = ztp("launch", "walk.yaml", "--max-gflops", "0.3")
    assert refused.code == 2
    assert "budget.max_gflops: null -> 0.3" in refused.err
    again = json.loads(ztp("front", "walk", "--json").out)
    if any(point["confirm"]["disturbed"] for point in points):  # those the second launch measured again
        points, again["points"] = _without_times(points), _without_times(again["points"])
        front["points"] = points
    assert again == front

    # a larger budget continues it, and by the old one nothing is taken away
    more = ztp("launch", "walk.yaml", "--trials", "7")
    assert more.code == 0
    assert "walk: 7/7 trials" in more.err
    assert "keeps budget.trials: 7, not 5" in ztp("launch", "walk.yaml").err
    later = json.loads(ztp("front", "walk", "--json").out)
    assert later["hypervolume"] >= front["hypervolume"]
    assert all(point["confirm"] for point in later["points"])
