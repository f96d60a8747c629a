"""The three verbs through the real command line: launch, look at the front, export, and measure the export again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STUDY = {
    "name": "walk",
    "backbone": {"name": "demo"},
    "data": {"source": "demo", "search_images": 40, "confirm_images": 24},
    "budget": {"trials": 5},
    "space": {"methods": ["zero-tprune"], "max_stages": 3, "keep": [0.4, 1.0], "wpr_iterations": [1, 10]},
    "sampler": {"name": "random"},
    "runtime": {"batch_size": 8, "dtype": "float32", "device": "cpu"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "walk.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def ztp(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `ztp` as a user does, in `folder`, with its own default storage there."""
    environment = {name: value for name, value in os.environ.items() if name != "ZTP_STORAGE"}
    done = subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_launch_front_export_evaluate(folder: Path) -> None:
    launched = ztp(folder, "launch", "walk.yaml")
    assert "ztp export walk" in launched.stdout
    assert (folder / "walk-front.png").stat().st_size > 10_000
    assert (folder / "walk-front.html").is_file()

    front = json.loads(ztp(folder, "front", "walk", "--json").stdout)
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

    ztp(folder, "export", "walk", "--trial", str(points[-1]["trial"]), "-o", "best.yaml")
    exported = yaml.safe_load((folder / "best.yaml").read_text())
    assert exported["schedule"] == points[-1]["schedule"]

    replayed = json.loads(ztp(folder, "evaluate", "best.yaml", "--json").stdout)
    assert replayed["reproduced"] is True

    # the same command finds it done; another limit under the same name is refused
    ztp(folder, "launch", "walk.yaml")
    refused = ztp(folder, "launch", "walk.yaml", "--max-gflops", "0.3", code=2)
    assert "budget.max_gflops: null -> 0.3" in refused.stderr
    again = json.loads(ztp(folder, "front", "walk", "--json").stdout)
    for before, after in zip(points, again["points"], strict=True):
        if before["confirm"]["disturbed"]:  # measured again by the second launch
            for timing in (before, after, before["confirm"], after["confirm"]):
                for of_time in ("throughput", "speedup", "spread", "disturbed", "estimate"):
                    timing.pop(of_time, None)
    assert again == front

    # a larger budget continues it, and by the old one nothing is taken away
    more = ztp(folder, "launch", "walk.yaml", "--trials", "7")
    assert "walk: 7/7 trials" in more.stderr
    assert "keeps budget.trials: 7, not 5" in ztp(folder, "launch", "walk.yaml").stderr
    later = json.loads(ztp(folder, "front", "walk", "--json").stdout)
    assert later["hypervolume"] >= front["hypervolume"]
    assert all(point["confirm"] for point in later["points"])
