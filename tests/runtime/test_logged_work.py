"""A whole launch under --log-json: every line on stderr is JSON, those of worker processes too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

STUDY = """name: parcel
backbone: {name: demo}
data: {source: demo, search_images: 16, confirm_images: 8}
budget: {trials: 3}
space: {methods: [tome], max_stages: 2}
runtime: {dtype: float32, batch_size: 4, workers: 2, prefix_cache_gib: 0.1}
"""


def test_a_launch_with_two_workers_logs_nothing_but_json(tmp_path: Path) -> None:
    (tmp_path / "parcel.yaml").write_text(STUDY)
    ran = subprocess.run(
        [sys.executable, "-m", "search.cli", "--log-json", "launch", "parcel.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    entries = [json.loads(line) for line in ran.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    told = [entry for entry in entries if entry["logger"] == "search.runtime.optuna_bridge"]
    assert sorted(entry["trial"] for entry in told) == [0, 1, 2]
    assert {entry["study"] for entry in told} == {"parcel"}
    assert all(entry["worker"] for entry in told)
    progress = [entry for entry in entries if entry["logger"] == "search.reporting.progress_display"]
    assert (progress[-1]["state"], progress[-1]["done"]) == ("done", 3)
    assert "front of" in ran.stdout
