"""The section `objectives`: what each kind of accuracy takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.config import spec as specs
from search.config.objectives import ObjectivesSpec, split_recorded
from search.config.spec import check_files, make_spec
from search.errors import InputError


def study(**objectives: Any) -> dict[str, Any]:
    return {"name": "s", "backbone": {"name": "demo"}, "objectives": objectives}


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"k": 5}, r"objectives\.k is for accuracy knn alone, not for top1, got 5; leave it out"),
        ({"accuracy": "knn", "k": 0}, r"objectives\.k must be at least 1, got 0"),
        ({"accuracy": "knn", "k": 30, "gallery_images": 20}, r"objectives\.gallery_images must be at least k, 30: so "),
        ({"accuracy": "knn", "gallery_images": 10}, r"objectives\.gallery_images must be at least k, 20"),
        ({"accuracy": "embedding", "gallery_images": 1}, r"objectives\.gallery_images must be at least 2, got 1"),
        ({"gallery_images": 10}, r"objectives\.gallery_images is for accuracy knn or embedding alone, not for top1"),
        ({"accuracy": "embedding", "k": 3}, r"objectives\.k is for accuracy knn alone, not for embedding"),
        ({"accuracy": "zero-shot"}, r"objectives\.text is required for accuracy zero-shot; name a file of embeddings"),
        (
            {"accuracy": "zero-shot", "text": "t.pt"},
            r"objectives\.text must be a list of class names or a file of \.npy",
        ),
        ({"accuracy": "zero-shot", "text": ["cat"]}, r"objectives\.text must list names of two classes or more"),
        ({"accuracy": "zero-shot", "text": ["cat", ""]}, r"objectives\.text must list names of two classes or more"),
        (
            {"accuracy": "zero-shot", "text": 3},
            r"objectives\.text must be a list of class names or a file of \.npy, \.npz.*got 3",
        ),
        ({"text": "t.npy"}, r"objectives\.text is for accuracy zero-shot alone, not for top1, got 't\.npy'"),
        (
            {"accuracy": "zero-shot", "text": ["cat", "dog"], "prompt": "a photo"},
            r"objectives\.prompt must hold \{\} once, where the class name goes, got 'a photo'",
        ),
        (
            {"accuracy": "zero-shot", "text": "t.npy", "prompt": "a {}"},
            r"objectives\.prompt is for names of classes, and text holds embeddings; leave it out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(objectives: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^study.yaml: {message}"):
        make_spec(study(**objectives), "study.yaml")


@pytest.mark.parametrize(
    ("objectives", "least"),
    [
        ({}, 0),
        ({"accuracy": "agreement"}, 0),
        ({"accuracy": "knn"}, 20),
        ({"accuracy": "knn", "k": 1}, 2),
        ({"accuracy": "knn", "k": 5, "gallery_images": 100}, 100),
        ({"accuracy": "embedding"}, 2),
        ({"accuracy": "embedding", "gallery_images": 50}, 50),
        ({"accuracy": "zero-shot", "text": ["cat", "dog"], "prompt": "{}, drawn"}, 0),
    ],
)
def test_what_is_taken_makes_the_round_trip(objectives: dict[str, Any], least: int) -> None:
    spec = make_spec(study(**objectives), "test")
    assert spec.objectives.least_gallery == least
    assert make_spec(spec.to_dict(), "test") == spec
    assert spec.to_dict()["objectives"] == {"accuracy": "top1", "throughput": "profiled"} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in objectives.items()
    }


def test_what_an_export_records_is_read_again() -> None:
    objectives = ObjectivesSpec(accuracy="zero-shot", text=("cat", "dog"))
    recorded = {"path": "images", "seed": 3, **objectives.asked, "fingerprint": "0123"}
    assert split_recorded(recorded.items()) == (
        {"path": "images", "seed": 3},
        {"accuracy": "zero-shot", "text": ["cat", "dog"]},
    )
    assert split_recorded([]) == ({}, {})


def test_a_missing_file_of_texts_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objectives\.text must be a list of class names or an existing file, got "):
        check_files(make_spec(study(accuracy="zero-shot", text=str(tmp_path / "t.npy")), "test"))
    (tmp_path / "t.txt").write_text("cat\ndog\n")
    check_files(make_spec(study(accuracy="zero-shot", text=str(tmp_path / "t.txt")), "test"))


def test_names_of_classes_need_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"names of classes needs the package open_clip.*zero-tprune-search\[openclip\]"
    ):
        specs.check_packages(make_spec(study(accuracy="zero-shot", text=["cat", "dog"]), "test"))
    specs.check_packages(make_spec(study(accuracy="zero-shot", text="t.npy"), "test"))
