"""The line of hardware and versions that every measured table carries. Ignores what is measured."""

from __future__ import annotations

from importlib.metadata import version

import torch

from search.evaluation.device import describe_device


def hardware_line(device: torch.device) -> str:
    return f"{describe_device(device)}; torch {version('torch')}, timm {version('timm')}"
