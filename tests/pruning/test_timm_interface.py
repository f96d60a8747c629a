"""A pruned model in the place of timm's: its methods and facts, hooks of every block, dropped patches, replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pruning import Schedule, Stage, prune
from pruning.errors import UnsupportedBackbone
from pruning.model import PrunedViT

SMALL = {"img_size": 64, "depth": 4}
STAGES = [Stage(block=1, keep=0.7), Stage(block=2, keep=0.6, method="tome")]


def small(pool: str = "token", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    facts = {"class_token": pool != "map", "global_pool": pool}
    made = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SMALL, **facts, **options)
    return made.eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_features_and_head_make_the_logits(pool: str) -> None:
    """Also where the head weighs merged tokens by size."""
    pruned = prune(small(pool), Schedule(STAGES))
    with torch.inference_mode():
        features = pruned.forward_features(images())
        assert features.shape[1] < 17
        torch.testing.assert_close(pruned.forward_head(features), pruned(images()), atol=1e-5, rtol=0)
        vectors = pruned.forward_head(features, pre_logits=True)
        assert vectors.shape == (3, 192)
        torch.testing.assert_close(pruned.get_classifier()(vectors), pruned(images()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_without_stages_they_are_timms(pool: str) -> None:
    model = small(pool)
    pruned = prune(model)
    with torch.inference_mode():
        expected: Any = model
        torch.testing.assert_close(pruned.forward_features(images()), expected.forward_features(images()))
        features = expected.forward_features(images())
        torch.testing.assert_close(pruned.forward_head(features, True), expected.forward_head(features, True))


def test_facts_are_the_backbones() -> None:
    model: Any = small()
    pruned = prune(model, Schedule(STAGES))
    for name in ("num_classes", "num_features", "head_hidden_size", "embed_dim", "pretrained_cfg", "default_cfg"):
        assert getattr(pruned, name) == getattr(model, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pruned.nothing


def test_another_classifier_trains_and_saves_anew() -> None:
    pruned = prune(small(), Schedule(STAGES))
    assert pruned.is_saving
    pruned.reset_classifier(3, "avg")
    assert (pruned.num_classes, pruned(images()).shape, pruned.is_saving) == (3, (3, 3), False)
    pruned.reset_classifier(5, "token")
    assert (pruned(images()).shape, pruned.is_saving) == ((3, 5), True)
    pruned.train()(images()).sum().backward()
    assert pruned.get_classifier().weight.grad is not None


@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hooks_of_every_block_fire_once_and_see_what_enters_and_leaves(kind: str) -> None:
    model: Any = small()
    pruned = prune(model, Schedule(STAGES))
    expected = pruned(images())
    seen: list[tuple[int, int]] = []
    for number, block in enumerate(model.blocks):
        if kind == "forward":
            block.register_forward_hook(lambda _, args, out, number=number: seen.append((number, out.shape[1])))
        else:
            block.register_forward_pre_hook(lambda _, args, number=number: seen.append((number, args[0].shape[1])))
    torch.testing.assert_close(pruned(images()), expected, atol=1e-5, rtol=0)
    after_stages = [17, 12, 7, 7] if kind == "forward" else [17, 17, 12, 7]
    assert seen == list(enumerate(after_stages))
    assert "forward" not in vars(model.blocks[1])


def test_a_hook_may_replace_what_a_stage_leaves() -> None:
    model: Any = small()
    pruned = prune(model, Schedule([Stage(block=1, keep=0.7)]))
    plain = pruned(images())
    handle = model.blocks[1].register_forward_hook(lambda _, args, out: out * 0)
    assert not torch.allclose(pruned(images()), plain)
    handle.remove()
    torch.testing.assert_close(pruned(images()), plain)


def test_dropped_patches_in_training_leave_stages_their_shares() -> None:
    pruned = prune(small(patch_drop_rate=0.5), Schedule(STAGES)).train()
    assert pruned(images()).shape == (3, 7)
    counts: list[int] = []
    model: Any = pruned.backbone
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: counts.append(out.shape[1] - 1))
    pruned(images()).sum().backward()
    assert counts == [8, 5, 3, 3]  # of 16 patches half are dropped, then int(8 * 0.7) and int(5 * 0.6) stay
    assert [plan.kept for plan in pruned.eval().plans] == [11, 6]


def test_dropped_patches_beside_rotary_embeddings_are_refused(make_vit: Callable[..., nn.Module]) -> None:
    """In training: which places are left is not known here."""
    pruned = prune(make_vit("rotary", patch_drop_rate=0.5), Schedule([Stage(block=1, keep=0.7)]))
    small_images = torch.zeros(1, 3, 32, 32)
    pruned(small_images)
    with pytest.raises(UnsupportedBackbone, match="patch_drop_rate must be 0 in training where attention knows places"):
        pruned.train()(small_images)


def test_replicas_run_on_their_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nn.DataParallel`'s replication without its devices: tensors are copied instead of broadcast."""

    def copied(tensors: list[Tensor], devices: list[int]) -> list[list[Tensor]]:
        return [[tensor.detach().clone() for tensor in tensors] for _ in devices]

    monkeypatch.setattr(torch.nn.parallel.comm, "broadcast_coalesced", copied)
    pruned = prune(small(), Schedule(STAGES))
    expected = pruned(images())
    one, other = torch.nn.parallel.replicate(pruned, [0, 1], detach=True)
    assert isinstance(one, PrunedViT)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    for replica in (one, other):
        assert replica.architecture.model is replica.backbone is not pruned.backbone
        torch.testing.assert_close(replica(images()), expected)
    assert not torch.allclose(pruned(images()), expected)
    assert pruned.architecture.model is pruned.backbone


def test_data_parallel_runs_where_there_is_no_device() -> None:
    pruned = prune(small(), Schedule(STAGES))
    torch.testing.assert_close(nn.DataParallel(pruned)(images()), pruned(images()))
