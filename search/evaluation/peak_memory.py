"""The peak memory of forward passes of a saved model, in a process that does nothing else.

What is counted: the high-water mark of the process's resident memory during passes, less what it had resident before
it loaded the model, with the runtime's package imported. So weights as the runtime keeps them, its own buffers and
activations count; Python, the package itself and what loading needed for a while do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search.errors import SearchError
from search.evaluation.runtimes import RUNTIMES, Deployment

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # Linux, proc_pid_clear_refs(5)
PASSES = 2  # the first also allocates what is kept
MIB = 1024  # KiB, in which Linux counts


def peak_memory(
    runtime: str, deployment: Deployment, folder: Path, shape: Sequence[int], batches: Sequence[int]
) -> dict[int, float]:
    """MiB by batch size, of what `Runtime.save` wrote to `folder`; empty where the system does not tell (not Linux).

    shape: of an image, [C, H, W]. Takes seconds. Raises SearchError if the process fails, for lack of memory say.
    """
    if not os.access(CLEAR, os.W_OK):
        return {}
    asked = [runtime, deployment.precision, deployment.threads, str(folder), list(shape), sorted(batches)]
    command = [sys.executable, "-m", __name__, json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        raise SearchError(f"measuring the peak memory of a pass in {RUNTIMES[runtime].title} failed: {last}")
    return {int(batch): mib for batch, mib in json.loads(ran.stdout.splitlines()[-1])}


def _measure(asked: str) -> list[tuple[int, float]]:
    """In the process that does nothing else: small batches first, for memory that was freed may stay resident."""
    runtime, precision, threads, folder, shape, batches = json.loads(asked)
    RUNTIMES[runtime].version()  # imports its package
    before = _resident("VmRSS")
    run = RUNTIMES[runtime].load(Path(folder), Deployment(precision, threads))
    found = []
    for batch in batches:
        images = np.zeros((batch, *shape), dtype=np.float32)
        CLEAR.write_text(RESET_PEAK)
        for _ in range(PASSES):
            run(images)
        found.append((batch, (_resident("VmHWM") - before) / MIB))
    return found


def _resident(name: str) -> int:
    """KiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
