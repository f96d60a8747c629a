"""Two workers against one, each with one thread: how much sooner the same study is finished.

    python -m tests.benchmarks.workers [--images 1000] [--trials 24] [--workers 2] [--json FILE]

Racing is off and the sampler random, so that both do about the same work; what they did is counted in images a
second, from the launch's first trial to its last, so that unequal schedules do not matter. Starting the workers counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import torch

from search.config.spec import read_spec
from tests.benchmarks.table import Table, make_parser

CODE = """
import json, sys, time
import torch
from search.runtime.launch import launch
from search.config.spec import make_spec
torch.set_num_threads(1)
began, ended, images = None, 0.0, 0
def observe(progress):
    global began, ended, images
    if progress.state == "running":
        began = began or time.perf_counter()
        ended, images = time.perf_counter(), progress.images
launch(make_spec(json.loads(sys.argv[1]), "benchmark"), sys.argv[2], observe, int(sys.argv[3]))
print(json.dumps([ended - began, images]))
"""


def search(workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One study in a process of its own. Returns seconds and images of its search."""
    spec = read_spec(
        "demo",
        {
            "data.search_images": arguments.images,
            "data.confirm_images": 10,
            "budget": {"trials": arguments.trials},
            "sampler.name": "random",
            "racing": {"alpha": 0.0},
            "space.keep": [0.5, 0.7],  # a front of few points: confirming it is not what is measured
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE, json.dumps(spec.to_dict()), f"sqlite:///{folder}/s.db", str(workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    seconds, images = json.loads(done.stdout.splitlines()[-1])
    return {"workers": workers, "seconds": seconds, "images": images, "images/s": images / seconds}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="of the search split")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    columns = {"workers": "", "seconds": ".1f", "images": "", "images/s": ".1f"}
    table = Table("workers", arguments, torch.device("cpu"), columns)
    rows = [search(workers, arguments) for workers in (1, arguments.workers)]
    for row in rows:
        table.add(row)
    table.finish({f"{arguments.workers} workers against one": f"{rows[1]['images/s'] / rows[0]['images/s']:.2f} times"})


if __name__ == "__main__":
    main()
