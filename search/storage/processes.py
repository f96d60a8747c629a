"""Which process holds a lease, and whether it still lives, which its own machine knows before the lease is over."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def host_identity() -> str:
    """This machine since its last boot, and this container's process ids on it: where a process id means something.

    A host name alone would not do: containers that share the host's name do not see each other's processes.
    """
    parts = [platform.node()[:100]]
    with suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process_identity(pid: int) -> str:
    """The process id with its start time: the id alone is given again. Empty start time where /proc is missing."""
    try:
        # fields after the name in parentheses, which may hold spaces; the 22nd of all is the start time
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{pid}:"
    return f"{pid}:" if fields[0] == "Z" else f"{pid}:{fields[19]}"


def is_alive(process: str) -> bool:
    """Whether the process of an identity made on this machine still runs."""
    pid, _, started = process.partition(":")
    if started:
        return process_identity(int(pid)) == process
    with suppress(PermissionError):  # somebody else's: it is there
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True
