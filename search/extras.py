"""Refuses what needs a package of an extra that is not installed."""

from __future__ import annotations

import importlib.util

from search.errors import InputError

PACKAGES = {
    "serve": ("fastapi", "jinja2", "prometheus_client"),
    "parquet": ("pyarrow",),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "nncf", "onnx", "onnxscript"),
    "ray": ("ray",),
    "openclip": ("open_clip",),
    "mlflow": ("mlflow",),
}


def check_extra(place: str, extra: str) -> None:
    """Raise InputError, with the command to install, if a package of the extra is missing. place: what needs it."""
    for package in PACKAGES[extra]:
        if importlib.util.find_spec(package) is None:
            rule = f"needs the package {package}, which is not installed"
            raise InputError(place, rule, remedy=f"pip install 'zero-tprune-search[{extra}]'")
