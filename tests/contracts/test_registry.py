"""Every model of timm that is said to be prunable, by timm's own list: what is said of it holds when it runs.

A model is built with weights drawn at random, short and for small images, and narrow if it would not fit; no option of
timm's entry is changed that changes what is computed. By default one model of each kind runs: models are of one kind
if they differ in sizes and numbers alone. All of them run with ZTP_REGISTRY=all (10 minutes of one core).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pruning.architectures import describe
from pruning.errors import UnsupportedBackbone
from pruning.flops import count_flops, trace_flops
from pruning.model import PrunedViT, check_untouched
from pruning.model_registry import build_without_values, foreign, names
from pruning.schedule import Schedule
from pruning.stage import Stage

AT_LEAST = 250  # models that can be pruned in the oldest timm that we take
STAGES = [Stage(0, 0.7, 3), Stage(1, 0.6, 1, 0.4, 0.8)]
MAX_WEIGHTS = 3_000_000
Kind = tuple[Any, ...]


def shallow(name: str) -> Any:
    """timm's model without values and with three blocks; where timm lists something for each block, with all."""
    try:
        return build_without_values(partial(timm.create_model, name, depth=3))
    except AssertionError:
        return build_without_values(partial(timm.create_model, name))


def short(name: str) -> dict[str, Any]:
    """Options for `timm.create_model`: three blocks, four by four patches, narrow if it has many weights."""
    model = shallow(name)
    options: dict[str, Any] = {"depth": 3, "img_size": tuple(4 * side for side in grain(model))}
    heads = model.blocks[0].attn.num_heads
    shared = max(getattr(block.attn, "num_kv_groups", 0) for block in model.blocks)
    if weights(build_without_values(partial(timm.create_model, name, **options, **keys(heads, shared)))) > MAX_WEIGHTS:
        narrow = 2 * max(shared, 1)
        options |= {"embed_dim": narrow * model.embed_dim // heads, "num_heads": narrow}
        heads = narrow
    return options | keys(heads, shared)


def keys(heads: int, shared: int) -> dict[str, Any]:
    """Key heads as a number, where queries may share them: timm lists them for each block of the full depth."""
    return {"num_kv_heads": heads // shared} if shared else {}


def grain(model: Any) -> tuple[int, int]:
    """Pixels of the image, in height and width, to one patch token."""
    embed = model.patch_embed
    return tuple(pixels // patches for pixels, patches in zip(embed.img_size, embed.grid_size, strict=True))


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def draw(name: str) -> nn.Module:
    """Values for every weight, none of them a one or a zero that would hide a branch."""
    model: nn.Module = timm.create_model(name, **short(name))
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        scale = 1.0 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data.normal_(0, scale, generator=generator)
        if key.endswith("bias"):
            parameter.data *= 0.1
    return model.eval().requires_grad_(False)


def kind(model: Any) -> Kind:
    """What a model is made of: the types of its parts, which weights they have, and its switches; no sizes."""
    body = {(key.replace(f"blocks.{index}.", "blocks."), type(part)) for index, key, part in parts(model)}
    owned = {key.replace(".0.", ".").rpartition(".blocks")[2] for key, _ in model.blocks[0].named_parameters()}
    plain = (bool, str, type(None))
    switches = {
        (where, key, value)
        for where, part in (
            ("", model),
            ("block", model.blocks[0]),
            ("attn", model.blocks[0].attn),
            ("rope", rope(model)),
        )
        for key, value in vars(part).items()
        if isinstance(value, plain) and not key.startswith("_") and key not in {"training", "fused_attn"}
    }
    return type(model), frozenset(body), frozenset(owned), frozenset(switches)


def parts(model: Any) -> Sequence[tuple[int, str, nn.Module]]:
    return [
        (int(key.split(".")[1]) if key.startswith("blocks.") else 0, key, part)
        for key, part in model.named_modules()
        if not key.startswith(("patch_embed.", "blocks")) or key.startswith("blocks.0.")
    ]


def rope(model: Any) -> Any:
    return getattr(model, "rope", None) or nn.Identity()


def run_all(name: str) -> None:
    """Driven is untouched, schedules run, the closed form is the trace."""
    model = draw(name)
    check_untouched(model)
    pruned = PrunedViT(model).eval()
    family = pruned.family
    images = torch.randn(2, *family.image_shape, generator=torch.Generator().manual_seed(0))
    dense = model(images)
    for method in ("zero-tprune", "cls-attention") if family.class_token else ("zero-tprune",):
        pruned.schedule = Schedule(STAGES, method)
        logits = pruned(images)
        assert logits.shape == dense.shape
        assert logits.isfinite().all()
        assert differ(logits, dense), f"{method} drops tokens and changes nothing"
    pruned.schedule = Schedule(STAGES)
    assert count_flops(pruned) == trace_flops(pruned)


def differ(one: Tensor, other: Tensor) -> bool:
    return (one - other).abs().max().item() > 1e-5


@pytest.fixture(scope="module")
def supported() -> dict[str, tuple[Kind, int]]:
    """Of each model that can be pruned, its kind and how many weights it has with three blocks."""
    found = {}
    for name in names():
        if not foreign(name):
            model = shallow(name)
            with suppress(UnsupportedBackbone):
                describe(model)
                found[name] = kind(model), weights(model)
    return found


def test_there_are_many(supported: dict[str, tuple[Kind, int]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(supported)} of timm {timm.__version__}'s {len(names())} models can be pruned")
    assert len(supported) >= AT_LEAST


def test_one_of_each_kind_runs(supported: dict[str, tuple[Kind, int]], capsys: pytest.CaptureFixture[str]) -> None:
    kinds: defaultdict[Kind, list[str]] = defaultdict(list)
    for name, (made_of, _) in supported.items():
        kinds[made_of].append(name)
    smallest = [min(group, key=lambda name: supported[name][1]) for group in kinds.values()]
    problems = outcomes(smallest)
    with capsys.disabled():
        print(f"\n{len(supported)} prunable models are of {len(smallest)} kinds; one of each ran")
    assert not problems


def outcomes(chosen: Sequence[str]) -> dict[str, str]:
    """What went wrong, by model; all get their turn."""
    problems = {}
    for name in chosen:
        try:
            run_all(name)
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {error}"
    return problems


@pytest.mark.skipif(os.environ.get("ZTP_REGISTRY") != "all", reason="takes minutes; set ZTP_REGISTRY=all")
def test_every_one_runs(supported: dict[str, tuple[Kind, int]], capsys: pytest.CaptureFixture[str]) -> None:
    problems = outcomes(list(supported))
    with capsys.disabled():
        print(f"\n{len(supported) - len(problems)} of {len(supported)} prunable models ran")
    assert not problems
