"""Decoding in real processes: the same pixels, once for two that ask, whole after a kill, little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from search.evaluation.data import decode_pool
from search.evaluation.data.decode_cache_files import cache_folder

SHAPE = (3, 8, 8)
ROOT = Path(__file__).parents[3]

# What the processes of these tests run: an image takes a while and leaves a trace
PROGRAM = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from search.evaluation.data import decode_cache as module
from search.evaluation.data.decode_cache import decode_once

class Decode:
    def __init__(self, folder, seconds, die_at=None):
        self.folder, self.seconds, self.die_at = folder, seconds, die_at
    def __call__(self, index):
        time.sleep(self.seconds)
        with open(f"{self.folder}/{os.getpid()}.log", "a") as log:
            print(index, file=log)
        if index == self.die_at:
            os._exit(9)
        return np.full((3, 8, 8), index % 251, dtype=np.uint8)

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    module.SAVE_EVERY_S = options.get("save_every_s", module.SAVE_EVERY_S)
    decode = Decode(options["folder"], options["seconds"], options.get("die_at"))
    order = np.random.default_rng(0).permutation(options["images"])
    decoded = decode_once("key", order, decode, (3, 8, 8), processes=options["processes"])
    first, last = decoded.pixels[:, 0, 0, 0], decoded.pixels[:, 2, 7, 7]
    right = bool((first == order % 251).all() and (last == order % 251).all())
    print(json.dumps({"right": right, "good": len(decoded.good), "pids": os.getpid()}))
"""


class Program:
    """Starts PROGRAM; its images' traces are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "traces"
        self.folder.mkdir()
        self._file = folder / "program.py"
        self._file.write_text(PROGRAM)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, images: int, processes: int, seconds: float, **options: object) -> subprocess.Popen[str]:
        options |= {"folder": str(self.folder), "images": images, "processes": processes, "seconds": seconds}
        process = subprocess.Popen(
            [sys.executable, self._file, json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def decoded(self) -> list[int]:
        return [int(line) for path in self.folder.iterdir() for line in path.read_text().split()]

    def wait_for(self, images: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while len(self.decoded()) < images:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.end()


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out), err


def test_two_processes_give_what_one_gives(program: Program) -> None:
    told, err = finish(program.start(images=100, processes=2, seconds=0))
    assert told["right"]
    assert told["good"] == 100
    assert sorted(program.decoded()) == list(range(100))
    assert len(list(program.folder.iterdir())) <= 2
    assert f"{told['pids']}.log" not in {path.name for path in program.folder.iterdir()}
    assert "decoding 100 images (2 at a time)" in err
    told, err = finish(program.start(images=100, processes=2, seconds=0))
    assert (told["right"], err) == (True, "")
    assert len(program.decoded()) == 100


def test_two_that_ask_at_once_decode_once(program: Program) -> None:
    one, two = (program.start(images=100, processes=1, seconds=0.02) for _ in range(2))
    (first, err_one), (second, err_two) = finish(one), finish(two)
    assert first["right"]
    assert second["right"]
    assert sorted(program.decoded()) == list(range(100))
    assert (err_one + err_two).count("decoding 100 images") == 1


def test_after_a_kill_only_what_was_not_saved_is_decoded_again(program: Program) -> None:
    killed = program.start(images=300, processes=2, seconds=0.02, save_every_s=0.2)
    while not (state := cache_folder() / "key.state").exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive  # processes that decode end with the one that started them
    before, saved = len(program.decoded()), int(np.count_nonzero(np.fromfile(state, dtype=np.uint8)))
    assert 0 < saved < 300
    told, err = finish(program.start(images=300, processes=1, seconds=0))
    assert (told["right"], told["good"]) == (True, 300)
    assert len(program.decoded()) - before == 300 - saved
    assert f"decoding 300 images, {saved} of them before" in err


def test_killed_before_anything_was_saved(program: Program) -> None:
    killed = program.start(images=200, processes=1, seconds=0.02)
    program.wait_for(50, killed)
    killed.kill()
    killed.communicate()
    told, _ = finish(program.start(images=200, processes=1, seconds=0))
    assert told["right"]


def test_a_process_that_dies_is_told_and_the_rest_kept(program: Program) -> None:
    process = program.start(images=100, processes=2, seconds=0, die_at=70)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "SearchError: a process that decodes images was ended from outside" in err
    told, _ = finish(program.start(images=100, processes=1, seconds=0))
    assert told["right"]


@pytest.mark.parametrize(("images", "expected"), [(10, 1), (1999, 1), (2000, 2), (5000, 5), (10**6, 8)])
def test_processes_by_cores_and_images(images: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert decode_pool.processes_for(images) == expected


MEMORY = """
import json, resource, sys
import numpy as np
from search.evaluation.data.decode_cache import decode_once
from search.evaluation.data.splits import Split
import torch

decodings = 0

def decode(index):
    global decodings
    decodings += 1
    return np.full((3, 224, 224), index % 251, dtype=np.uint8)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

images = int(sys.argv[1])
decode_once("small", np.arange(10), decode, (3, 224, 224))
before = peak()
for _ in range(2):
    decoded = decode_once("large", np.arange(images), decode, (3, 224, 224), processes=1)
assert decodings == images + 10, decodings
after_decoding = peak() - before
split = Split("search", decoded.pixels, None, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
anonymous = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
start, most, total = anonymous(), 0, 0.0
for batch in split.batches(64):
    total += float(batch[:, 0, 0, 0].sum())
    most = max(most, anonymous() - start)
assert round(total * 255) == sum(i % 251 for i in range(images)), total
print(json.dumps({"decoding": after_decoding, "batches": most, "file": int(decoded.pixels.nbytes)}))
"""


@pytest.mark.parametrize("images", [2000, pytest.param(50_000, marks=pytest.mark.drill)])
def test_memory_does_not_grow_with_the_images_and_none_is_decoded_twice(images: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(images)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["file"] == images * 3 * 224 * 224  # 301 MB on the disk, or 7.5 GB ...
    assert told["decoding"] < 30e6  # ... and next to nothing in memory while it is written
    assert told["batches"] < 100e6  # one batch of 64 is 38.5 MB as float32, and its bytes 9.6 MB
