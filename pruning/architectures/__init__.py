"""Which timm models can be pruned: a table from a model's exact type to the architecture that drives it.

To add a family: write one file here with a subclass of `pruning.architectures.base.Architecture`, add a row, and add a
row to tests/contracts/test_backbones.py.
"""

from __future__ import annotations

from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from pruning.architectures.base import Architecture, Family
from pruning.architectures.beit import BeitViT
from pruning.architectures.class_and_mean import ClassAndMeanViT
from pruning.architectures.eva import EvaViT
from pruning.architectures.relpos import RelPosViT
from pruning.architectures.vit import PlainViT
from pruning.errors import UnsupportedBackbone

ARCHITECTURES: dict[type[nn.Module], type[Architecture]] = {
    VisionTransformer: PlainViT,
    VisionTransformerDistilled: PlainViT,
    ClassAndMeanViT: PlainViT,
    Eva: EvaViT,
    Beit: BeitViT,
    VisionTransformerRelPos: RelPosViT,
}


def drive(model: nn.Module) -> Architecture:
    """The architecture that drives a backbone. Raises UnsupportedBackbone with the reason.

    Types are compared exactly: a subclass may compute something else, and would be pruned wrongly in silence.
    """
    architecture = ARCHITECTURES.get(type(model))
    if architecture is None:
        known = ", ".join(sorted(each.__name__ for each in ARCHITECTURES if each.__module__.startswith("timm.")))
        raise UnsupportedBackbone(
            f"backbone of type {type(model).__name__} cannot be pruned: supported are timm's {known}"
        )
    return architecture(model)


def describe(model: nn.Module) -> Family:
    """A backbone's facts. Raises UnsupportedBackbone with the reason."""
    return drive(model).family


__all__ = ["ARCHITECTURES", "Architecture", "Family", "describe", "drive"]
