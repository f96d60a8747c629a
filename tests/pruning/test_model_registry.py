"""What is said of timm's models: by pattern, truly, and kept for the next time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm

from pruning import model_registry
from pruning.architectures import describe
from pruning.errors import UnsupportedBackbone
from pruning.flops import count_flops
from pruning.model_registry import Entry, Refused, build_without_values, look_up, names


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("eva02_tiny", ["eva02_tiny_patch14_224", "eva02_tiny_patch14_336"]),
        ("eva02_tiny*224", ["eva02_tiny_patch14_224"]),
        ("deit_tiny_patch16_224", ["deit_tiny_patch16_224"]),
        ("deit_tiny_patch16_224.fb_in1k", ["deit_tiny_patch16_224"]),
        ("test_vit?", ["test_vit2", "test_vit3", "test_vit4"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert names(pattern) == expected


def test_all_of_timms_models_are_known_by_name() -> None:
    assert names() == timm.list_models()


@pytest.mark.parametrize(
    ("pattern", "hint"), [("eva2_tiny_patch14_224", "did you mean eva02_tiny"), ("%", "none is spelt like it")]
)
def test_a_pattern_without_a_model_is_refused(pattern: str, hint: str) -> None:
    with pytest.raises(
        UnsupportedBackbone, match=rf"PATTERN must match one of timm's \d+ models, or be demo, got '{pattern}'; {hint}"
    ):
        names(pattern)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224"])
def test_what_is_said_is_what_the_real_model_says(name: str) -> None:
    model = timm.create_model(name)
    family = describe(model)
    (entry,) = look_up([name])
    assert isinstance(entry, Entry)
    assert (entry.image_shape, entry.blocks, entry.tokens) == (family.image_shape, family.depth, family.tokens)
    assert (entry.prefix, entry.class_token) == (family.prefix, family.class_token)
    assert entry.flops == count_flops(model, exact_savings=False)
    assert [f"{name}.{tag}" for tag in entry.tags] == timm.list_pretrained(f"{name}.*")


def test_models_built_without_values_have_the_same_shapes() -> None:
    shapes = {name: value.shape for name, value in timm.create_model("test_vit").state_dict().items()}
    assert {
        key: value.shape
        for key, value in build_without_values(partial(timm.create_model, "test_vit")).state_dict().items()
    } == shapes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "backbone comes from timm's resnet, which builds none of Beit, Eva, VisionTransformer"),
        ("vit_pwee_patch16_reg1_gap_256", "block 0 is ParallelScalingBlock, which runs attention and MLP side by side"),
    ],
)
def test_others_are_listed_with_the_reason(name: str, reason: str) -> None:
    (answer,) = look_up([name])
    assert isinstance(answer, Refused)
    assert reason in answer.reason


def test_what_is_said_without_building_is_true() -> None:
    """A model whose source names none of the known classes is refused by its type, too."""
    (answer,) = look_up(["cait_xxs24_224"])
    assert isinstance(answer, Refused)
    with pytest.raises(UnsupportedBackbone, match="backbone of type Cait cannot be pruned"):
        describe(build_without_values(partial(timm.create_model, "cait_xxs24_224")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were built."""
    built: list[str] = []
    real = model_registry._ask

    def ask(name: str) -> Entry | Refused:
        built.append(name)
        return real(name)

    monkeypatch.setattr(model_registry, "_ask", ask)
    return built


TWO = ["test_vit", "vit_pwee_patch16_reg1_gap_256"]


def test_answers_are_kept(tmp_path: Path, asked: list[str]) -> None:
    first = list(look_up(TWO, tmp_path / "kept"))
    again = list(look_up([*TWO, "test_vit2"], tmp_path / "kept"))
    assert again[:2] == first
    assert asked == [*TWO, "test_vit2"]
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".json"]


def test_kept_answers_of_another_timm_are_not_read(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(look_up(["test_vit"], tmp_path))
    monkeypatch.setattr(timm, "__version__", "99.0")
    list(look_up(["test_vit"], tmp_path))
    assert asked == ["test_vit", "test_vit"]


@pytest.mark.parametrize("damage", ["", "{", json.dumps([{"name": "test_vit"}]), "[1]", '"x"'])
def test_damaged_answers_are_asked_for_again(tmp_path: Path, asked: list[str], damage: str) -> None:
    (truth,) = look_up(["test_vit"], tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    assert list(look_up(["test_vit"], tmp_path)) == [truth]
    assert asked == ["test_vit", "test_vit"]


def test_answers_that_cannot_be_kept_are_given(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    (answer,) = look_up(["test_vit"], tmp_path / "file")
    assert isinstance(answer, Entry)
    assert "answers are not kept for the next time" in caplog.text
