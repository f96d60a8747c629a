"""All benchmarks one after the other with their default settings, or those named; each leaves its rows as JSON.

    python -m tests.benchmarks [NAME ...] [--results DIR]

On two cores `time_to_front` takes three to four hours, `samplers` about 20 minutes, the rest minutes.
Nothing else should run meanwhile. Knows commands and files. Ignores what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

DEIT, DEMO = "--model deit_small_patch16_224 --batch 16", "--model demo --dtype bfloat16 --batch 50"
BENCHMARKS = {  # name of the file of results -> module of this folder and its options
    "profile-deit": f"profile {DEIT}",
    "profile-demo": f"profile {DEMO}",
    "stage-deit": "stage",
    "stage-demo": f"stage {DEMO}",
    "prefix-cache": "prefix_cache",
    "overhead": "overhead",
    "wall-time": "wall_time",
    "workers": "workers",
    "coordination": "coordination",
    "decoding": "decoding",
    "images-saved": "images_saved",
    "samplers": "samplers",
    "time-to-front": "time_to_front --plain-known",
}


def command(name: str, results: Path) -> list[str]:
    module, *options = shlex.split(BENCHMARKS[name])
    options += ["--json", str(results / f"{name}.json")]
    if name == "time-to-front":  # a second run of the benchmark need not repeat its long run
        options += ["--runs", str(results / "runs")]
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or BENCHMARKS:
        print(f"\n## {shlex.join(command(name, arguments.results)[1:])}\n", flush=True)
        subprocess.run(command(name, arguments.results), check=True)


if __name__ == "__main__":
    main()
