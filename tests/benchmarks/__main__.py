"""All benchmarks, one after the other, each with its default settings; about half an hour on two cores."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    ("tests.benchmarks.stage",),
    ("tests.benchmarks.stage", "--model", "demo", "--dtype", "bfloat16", "--batch", "50"),
    ("tests.benchmarks.prefix_cache",),
    ("tests.benchmarks.methods", "--ablation"),
)

if __name__ == "__main__":
    for command in BENCHMARKS:
        print(f"\n## {' '.join(command)}\n", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
