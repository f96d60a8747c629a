"""`ztp backbones`: which models it shows, and as what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Ztp = Callable[..., Any]


def test_a_table_of_what_the_pattern_names(ztp: Ztp) -> None:
    ran = ztp("backbones", "eva02_tiny_patch14_224")
    assert (ran.code, ran.err) == (0, "")
    assert "1 backbone can be pruned (one multiply-add = one FLOP)" in ran.out
    row = ran.out.splitlines()[-1].split()
    assert row == ["eva02_tiny_patch14_224", "224x224", "12", "256", "1", "1.70", "mim_in22k"]
    assert "cannot be pruned" not in ran.out


def test_models_that_the_pattern_names_are_explained(ztp: Ztp) -> None:
    ran = ztp("backbones", "vit_*wee_patch16_reg1_gap_256")
    assert (ran.code, ran.err) == (0, "")
    assert "1 backbone can be pruned" in ran.out
    assert "3 timm models cannot be pruned:" in ran.out
    assert "vit_dwee_patch16_reg1_gap_256: backbone block 0 is Block with DiffAttention" in ran.out


def test_nothing_but_explanations(ztp: Ztp) -> None:
    ran = ztp("backbones", "resnet10t")
    assert ran.code == 0
    assert ran.out.startswith("1 timm model cannot be pruned:\nresnet10t: backbone comes from timm's resnet")


def test_many_of_one_reason_are_counted(ztp: Ztp) -> None:
    assert "cait_m36_384, cait_m48_448, cait_s24_224, cait_s24_384 and 6 more: " in ztp("backbones", "cait").out


def test_json_is_one_document(ztp: Ztp) -> None:
    ran = ztp("backbones", "test_vit*", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert [each["name"] for each in document["supported"]] == [
        "test_vit",
        "test_vit2",
        "test_vit3",
        "test_vit4",
        "test_vit_relpos",
    ]
    first = document["supported"][0]
    assert first["gflops"] == first["flops"] / 1e9
    assert first["image_shape"] == [3, 160, 160]
    assert document["refused"] == []


def test_a_pattern_without_a_model(ztp: Ztp) -> None:
    ran = ztp("backbones", "swinny")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("ztp: PATTERN must match one of timm's")


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("nosuch", "none is spelt like it; `ztp backbones` lists them"),
        ("deit-small", "did you mean deit_small_patch16"),
    ],
)
def test_near_names_are_suggested(ztp: Ztp, pattern: str, near: str) -> None:
    ran = ztp("backbones", pattern)
    assert (ran.code, ran.out) == (2, "")
    assert near in ran.err


def test_the_demo_is_known_by_its_name(ztp: Ztp) -> None:
    ran = ztp("backbones", "demo")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1].split() == ["demo", "28x28", "12", "196", "1", "0.35", "bundled"]


@pytest.mark.parametrize(
    ("source", "pattern", "row"),
    [
        ("hf", "ViTFor*", "ViTForImageClassification 224x224 12 196 1 17.58 a folder, or hf_hub:ORG/NAME"),
        ("torchvision", "vit_b_32", "torchvision/vit_b_32 224x224 12 49 1 4.41 IMAGENET1K_V1"),
        ("openclip", "*/ViT-B-32", "openclip/ViT-B-32 224x224 12 49 1 4.41 as vit_base_patch32_clip_224"),
    ],
)
def test_models_of_other_libraries(ztp: Ztp, source: str, pattern: str, row: str) -> None:
    ran = ztp("backbones", pattern, "--source", source)
    assert (ran.code, ran.err) == (0, "")
    assert "1 backbone can be pruned" in ran.out
    assert " ".join(ran.out.splitlines()[-1].split()) == row


def test_every_model_of_another_library_can_be_pruned(ztp: Ztp) -> None:
    for source, least in (("hf", 15), ("torchvision", 5), ("openclip", 20)):
        document = json.loads(ztp("backbones", "--source", source, "--json").out)
        assert len(document["supported"]) >= least
        assert document["refused"] == []


def test_an_unknown_source_or_name_is_refused(ztp: Ztp) -> None:
    ran = ztp("backbones", "--source", "keras")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("ztp: --source must be one of timm, hf, openclip, torchvision, got 'keras'")
    ran = ztp("backbones", "swin_t", "--source", "torchvision")
    assert (ran.code, ran.out) == (2, "")
    assert "PATTERN must match one of torchvision/vit_b_16, " in ran.err
