"""`ztp doctor`: is this machine fit to search, and its database to be searched on; what to do if not."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import RenderableType
from rich.text import Text

from search.reporting.tables import facts_table
from search.runtime.cpu import CGROUP, usable_cores
from search.storage.compatibility import PACKAGE
from search.storage.health import FAIL, OK, WARN, Check, check_unless, inspect_database

SHOWN_PACKAGES = (PACKAGE, "torch", "timm", "optuna", "sqlalchemy", "fvcore")
STYLES = {OK: "green", WARN: "yellow", FAIL: "red"}
GIB = 2**30
MIN_MEMORY = 2 * GIB  # torch, a small backbone and one batch
MIN_CACHE = 8 * GIB  # 50,000 decoded images of 224 x 224 take 7.5 GB
SHORTEST_TOKEN = 22  # characters: `ztp serve` refuses a shorter one
PORT = 8000  # of `ztp serve`, unless told otherwise


def examine(storage: str) -> list[Check]:
    """Every check, this machine's first. Takes some seconds: torch is loaded."""
    from search.evaluation.data.decode_cache_files import cache_folder  # loads Pillow

    return [
        *_packages(),
        *_machine(),
        *inspect_database(storage),
        cache_check(cache_folder()),
        token_check(os.environ.get("ZTP_TOKEN")),
        port_check(PORT),
    ]


def healthy(checks: Iterable[Check]) -> bool:
    return all(check.state != FAIL for check in checks)


def as_document(checks: list[Check]) -> dict[str, Any]:
    """For --json: {"ok", "checks": [{"name", "state", "found", "remedy"}]}"""
    return {"ok": healthy(checks), "checks": [vars(check) for check in checks]}


def as_table(checks: list[Check]) -> RenderableType:
    """A line a check, with what to do below what was found."""
    return facts_table(
        (
            Text(check.state, style=STYLES[check.state]),
            check.name,
            Text(f"{check.found}\n-> {check.remedy}" if check.remedy else check.found),
        )
        for check in checks
    )


def _packages() -> Iterator[Check]:
    yield Check("python", OK, f"{platform.python_version()} on {platform.platform()}")
    bounds = {need.name.lower(): need for line in requires(PACKAGE) or () if not (need := Requirement(line)).marker}
    for name in SHOWN_PACKAGES:
        yield package_check(name, bounds.get(name))


def package_check(name: str, bound: Requirement | None) -> Check:
    """Whether a package is there, and within what this release asks for."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, FAIL, "not installed", f"pip install '{bound or name}'")
    if bound is not None and not bound.specifier.contains(found, prereleases=True):
        return Check(name, FAIL, f"{found}, but {bound} is needed", f"pip install --upgrade '{bound}'")
    return Check(name, OK, found)


def _machine() -> Iterator[Check]:
    try:
        import torch  # seconds, and of all commands that look only this one needs it

        from search.evaluation.device import bfloat16_is_fast, choose_device, describe_device
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        remedy = "pip install --force-reinstall torch torchvision"
        yield Check("device", FAIL, f"torch cannot be loaded: {error}", remedy)
        return
    device = choose_device("auto")
    fast = "fast" if bfloat16_is_fast(device) else "no fast"
    yield Check("device", OK, f"{describe_device(device)}, {fast} bfloat16")
    yield threads_check(torch.get_num_threads(), usable_cores())
    yield memory_check(available_memory())


def threads_check(threads: int, cores: float) -> Check:
    """torch's threads against the cores there are: more of them wait for each other at every operator."""
    found = f"{threads} for torch, {cores:g} of {os.cpu_count()} cores usable here"
    return check_unless(threads > max(1.0, cores), "threads", found, f"set OMP_NUM_THREADS={max(1, int(cores))}")


def available_memory() -> int | None:
    """Bytes that can be had without swapping, within the control group's limit; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return free
    return limit - used if free is None else min(free, limit - used)


def memory_check(free: int | None) -> Check:
    if free is None:
        return Check("memory", OK, "not known on this system")
    found = f"{free / GIB:.1f} GiB available"
    remedy = "stop other programs, or lower runtime.batch_size and prefix_cache_gib"
    return check_unless(free < MIN_MEMORY, "memory", found, remedy)


def cache_check(folder: Path) -> Check:
    """Space and rights where decoded images are kept; the folder itself need not be there yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Check("cache", FAIL, f"{folder}: cannot be written", "set ZTP_CACHE to a folder of yours")
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    remedy = "free some space or set ZTP_CACHE: 50,000 images of 224 x 224 take 7.5 GB"
    return check_unless(free < MIN_CACHE, "cache", found, remedy)


def token_check(token: str | None) -> Check:
    """The service's token; never shown."""
    if token is None:
        return Check("token", OK, "ZTP_TOKEN is not set: without --token-file, ztp serve answers this machine alone")
    remedy = "take a random one: openssl rand -hex 32"
    if token != token.strip():
        return Check("token", FAIL, "ZTP_TOKEN has spaces or a line's end around it", remedy)
    if len(token) < SHORTEST_TOKEN:
        return Check("token", FAIL, f"ZTP_TOKEN has {len(token)} characters, {SHORTEST_TOKEN} are needed", remedy)
    return Check("token", OK, f"ZTP_TOKEN is set, {len(token)} characters")


def port_check(port: int) -> Check:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = "fine if it is ztp serve; else give it another --port"
            return Check("port", WARN, f"{port} is taken: {error.strerror}", remedy)
    return Check("port", OK, f"{port} is free for ztp serve")
