"""Paths of studies from the network: below the roots once every link is resolved, or refused in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config.spec import StudySpec, make_spec
from search.errors import InputError
from search.server.allowed_roots import check_roots, within_roots


def study(path: str, weights: str = "random") -> StudySpec:
    data: dict[str, Any] = {"path": path, "search_images": 2, "confirm_images": 2}
    backbone = {"name": "vit_tiny_patch16_224", "weights": weights}
    return make_spec({"name": "files", "backbone": backbone, "data": data}, "test")


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, ...]:
    """Two, with links in, out and to themselves, and a folder beside them whose name begins as theirs."""
    for name in ("one/images", "two/images", "two/only", "one-more"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one" / "out").symlink_to(tmp_path / "one-more")
    (tmp_path / "one" / "across").symlink_to(tmp_path / "two" / "only")
    (tmp_path / "one" / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("one")
    return check_roots([tmp_path / "link", tmp_path / "two"])


def test_a_backbone_that_is_a_folder_stays_below_too(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    def named(name: str) -> StudySpec:
        return make_spec({**study("images").to_dict(), "backbone": {"name": name}}, "test")

    top = tmp_path.resolve()
    for name in ("local-dir:images", "./images", f"{top}/one/images"):
        assert within_roots(named(name), roots).backbone.name == f"{top}/one/images"
    for name in ("../one-more", "local-dir:/etc", "one/../../..", f"{top}/one/out"):
        with pytest.raises(InputError, match=r"backbone\.name must lie below a data root"):
            within_roots(named(name), roots)
    for name in ("hf_hub:google/vit-base-patch16-224", "torchvision/vit_b_16", "deit_tiny_patch16_224"):
        assert within_roots(named(name), roots).backbone.name == name


def test_a_class_map_stays_below_too(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    def mapped(class_map: Any) -> StudySpec:
        document = study("images").to_dict()
        return make_spec({**document, "data": {**document["data"], "class_map": class_map}}, "test")

    assert within_roots(mapped("map.txt"), roots).data.class_map == str(tmp_path.resolve() / "one" / "map.txt")
    assert within_roots(mapped({"cat": 1}), roots).data.class_map == {"cat": 1}
    with pytest.raises(InputError, match=r"data\.class_map must lie below a data root"):
        within_roots(mapped("/etc/passwd"), roots)


def test_texts_stay_below_too(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    def asked(text: Any) -> StudySpec:
        objectives = {"accuracy": "zero-shot", "text": text}
        return make_spec({**study("images").to_dict(), "objectives": objectives}, "test")

    assert within_roots(asked("t.npy"), roots).objectives.text == str(tmp_path.resolve() / "one" / "t.npy")
    assert within_roots(asked(["cat", "dog"]), roots).objectives.text == ("cat", "dog")
    for text in ("/etc/t.npy", "../one-more/t.txt", f"{tmp_path.resolve()}/one/out/t.npz"):
        with pytest.raises(InputError, match=r"objectives\.text must lie below a data root"):
            within_roots(asked(text), roots)


def test_roots_are_resolved_and_must_be_folders(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    assert roots == ((tmp_path / "one").resolve(), (tmp_path / "two").resolve())
    (tmp_path / "file").write_text("")
    for wrong in ("nothing", "file"):
        with pytest.raises(InputError, match=r"--data-root must be an existing folder, got .*; check the path"):
            check_roots([tmp_path / wrong])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("images", "one/images"),  # the first root that has it
        ("only", "two/only"),
        ("nothing", "one/nothing"),  # whoever checks files says that it is not there
        (".", "one"),
        ("across", "two/only"),  # from one root into another
        ("images/../images", "one/images"),
        ("{top}/two/images", "two/images"),
        ("{top}/link/images", "one/images"),
    ],
)
def test_what_lies_below_is_stored_absolute_with_its_roots(
    tmp_path: Path, roots: tuple[Path, ...], path: str, found: str
) -> None:
    top = tmp_path.resolve()
    spec = within_roots(study(path.format(top=top), weights=f"{top}/one/w.pth"), roots)
    assert spec.data.path == str(top / found)
    assert spec.data.roots == (str(top / "one"), str(top / "two"))
    assert spec.backbone.weights == str(top / "one" / "w.pth")
    assert within_roots(spec, roots) == spec


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/no/such", "..", "{top}/one/out", "{top}/one/out/x", "{top}/one-more", "{top}"]
)
def test_what_lies_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(
    tmp_path: Path, roots: tuple[Path, ...], path: str
) -> None:
    path = path.format(top=tmp_path)
    for spec, place in ((study(path), "data.path"), (study("images", path), "backbone.weights")):
        with pytest.raises(InputError) as refused:
            within_roots(spec, roots)
        below = ", ".join(map(str, roots))
        assert str(refused.value) == (
            f"files: {place} must lie below a data root of the server ({below}), got {path!r}; see --data-root"
        )


def test_without_roots_only_studies_without_paths_are_taken() -> None:
    demo = make_spec({"name": "shirts", "backbone": {"name": "demo"}}, "test")
    assert within_roots(demo, ()) == demo
    with pytest.raises(InputError, match=r"\(none is configured\)"):
        within_roots(study("images"), ())


def test_roots_that_the_sender_names_are_not_believed(roots: tuple[Path, ...]) -> None:
    own = study("images").model_copy(update={"data": study("images").data.model_copy(update={"roots": ("/",)})})
    assert within_roots(own, roots).data.roots == tuple(map(str, roots))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["..", ".", "images", "out", "across", "loop", "one", "", "x"]), min_size=1, max_size=8)
)
def test_no_path_of_any_pieces_leads_out(roots: tuple[Path, ...], pieces: list[str]) -> None:
    path = "/".join(pieces)
    if not path:
        return
    try:
        found = within_roots(study(path), roots).data.path
    except InputError:
        return
    assert found is not None
    real = Path(found).resolve()
    assert any(real == root or root in real.parents for root in roots)
