"""The device and number format that a study runs in: chosen once, recorded, the same for every trial."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from search.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")
PROCESSOR_FACTS = (  # as they are called there on x86 and on ARM; two EPYCs of one name may be years apart
    *("vendor_id", "cpu family", "model", "stepping", "cache size", "flags"),
    *("CPU implementer", "CPU part", "CPU variant", "CPU revision", "Features"),
)
WORTH_IT = 1.1  # a narrower format must be this much faster to be worth its rounding


def choose_device(wanted: str) -> torch.device:
    """ "auto": CUDA, then Apple's GPU, then the CPU. Raises InputError for a device that is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    there = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
    }
    if not there.get(kind, False):
        raise InputError("runtime.device", "must be a device of this machine", repr(wanted), "use auto or cpu")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """What to print beside a number: "cpu: AMD EPYC, 2 threads" or "cuda: NVIDIA H100"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    processor = _processor_facts().get("model name") or platform.processor() or platform.machine()
    return f"{device.type}: {processor}, {torch.get_num_threads()} threads"


def machine_key(device: torch.device) -> str:
    """What a speed holds for: processor or GPU, threads, and the libraries that compute; names alone do not tell."""
    if device.type == "cuda":
        there = str(torch.cuda.get_device_properties(device))
    else:
        found = _processor_facts()
        facts = [found.get(name, "") for name in PROCESSOR_FACTS]
        # without that list, processors that differ may all be called "arm": no machine speaks for another
        there = "; ".join(facts if any(facts) else (platform.processor(), platform.node()))
    return "; ".join((describe_device(device), there, str(os.cpu_count()), torch.__version__, version("timm")))


def _processor_facts() -> dict[str, str]:
    """Of the first processor, as Linux lists them."""
    if not CPUINFO.exists():
        return {}
    lines = (line.partition(":") for line in CPUINFO.read_text().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = _processor_facts()
    flags = (found.get("flags") or found.get("Features", "")).split()
    return device.type == "cpu" and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
