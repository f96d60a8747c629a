"""The studies that ship with the package, by name."""

from __future__ import annotations

from importlib import resources


def builtin_names() -> list[str]:
    """The studies that ship with the package."""
    files = resources.files("studies").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
