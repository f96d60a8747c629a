"""Zero-shot token pruning of pre-trained timm vision transformers.

Notation, used by every file of this package:

    B  images in a batch          N  tokens in a block (prefix tokens included)
    H  attention heads            n  patch tokens
    D  width of a token           P  prefix tokens: class, distillation, registers; N = P + n
    d  width of a head            K  patch tokens kept by a stage

The names below load on first use, so that reading a schedule does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.config import load as load
    from pruning.deployment import export_onnx as export_onnx
    from pruning.deployment import export_openvino as export_openvino
    from pruning.deployment import export_program as export_program
    from pruning.errors import PruningError as PruningError
    from pruning.errors import UnsupportedBackbone as UnsupportedBackbone
    from pruning.flops import count_flops as count_flops
    from pruning.flops import trace_flops as trace_flops
    from pruning.model import PrunedViT as PrunedViT
    from pruning.model import prune as prune
    from pruning.schedule import Schedule as Schedule
    from pruning.stage import Stage as Stage
    from pruning.weighted_page_rank import page_rank as page_rank

_HOME = {
    "PruningError": "pruning.errors",
    "PrunedViT": "pruning.model",
    "Schedule": "pruning.schedule",
    "Stage": "pruning.stage",
    "UnsupportedBackbone": "pruning.errors",
    "count_flops": "pruning.flops",
    "export_onnx": "pruning.deployment",
    "export_openvino": "pruning.deployment",
    "export_program": "pruning.deployment",
    "load": "pruning.config",
    "page_rank": "pruning.weighted_page_rank",
    "prune": "pruning.model",
    "trace_flops": "pruning.flops",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
