"""What is wrong with a comparison, found before weights are loaded and images decoded: all of it, not the first.

A backbone without values in its weights says all that costs, blocks and images need.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pruning.backbones import sketch_backbone
from pruning.config import Config
from search.config.sections import WEIGHTS
from search.config.spec import StudySpec
from search.errors import Mistakes
from search.evaluation.compare.entries import Contender, Levels
from search.evaluation.compare.runner import check_config, choose_images, line_up


def rehearse(
    mistakes: Mistakes,
    spec: StudySpec,
    contenders: Sequence[Contender],
    levels: Levels | None,
    images: int | None,
    searched: bool,
    exported: Sequence[tuple[Path, Config]],
) -> None:
    """Gather what a comparison of these would refuse. levels: None if they are wrong by themselves."""
    backbone = mistakes.attempt(lambda: sketch_backbone(spec.backbone.name, **spec.backbone.options))
    if backbone is None:
        return
    fitting = []
    for path, config in exported:
        count = len(mistakes)
        mistakes.attempt(partial(check_config, path, config, backbone))
        if len(mistakes) == count:
            fitting.append((path.stem, config))
    if spec.backbone.weights in WEIGHTS:  # a file may bring another number of classes
        configs = [config for _, config in exported]
        mistakes.attempt(lambda: choose_images(spec, backbone, images, searched, configs))
    if levels is not None:
        mistakes.attempt(lambda: line_up(backbone, contenders, levels, fitting))
