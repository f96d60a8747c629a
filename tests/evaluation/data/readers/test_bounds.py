"""Collections that must lie below certain folders: whatever they name, and wherever their links lead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.errors import InputError
from search.evaluation.data.readers import USUAL, Bounds, check_named, open_reader

OUTSIDE = "must lie below a data root"


@pytest.fixture
def root(pictures: Any) -> Path:
    """Below which all forms lie; a picture lies beside it."""
    secret = pictures.folder / "secret"
    secret.mkdir()
    (secret / "00.png").write_bytes(pictures.encode(0))
    pictures.folder = pictures.folder / "root"
    pictures.folder.mkdir()
    return Path(pictures.folder)


@pytest.fixture
def bounds(root: Path) -> Bounds:
    return Bounds((root.resolve(),))


FORMS: dict[str, Callable[[Any], Path]] = {
    "class folders": lambda p: p.class_folders(),
    "flat folder": lambda p: p.flat_folder(),
    "csv": lambda p: p.rows(),
    "tsv": lambda p: p.rows(".tsv"),
    "text": lambda p: p.lines(),
    "parquet rows": lambda p: p.parquet_rows(),
    "hugging face": lambda p: p.hugging_face(),
    "idx": lambda p: p.idx(),
    "tar": lambda p: p.tar(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_below_its_root_and_refused_below_another(
    pictures: Any, bounds: Bounds, form: str, tmp_path: Path
) -> None:
    path = str(FORMS[form](pictures))
    assert open_reader(path, USUAL, bounds).listing == open_reader(path).listing
    check_named(path, USUAL, bounds)
    for another in (Bounds((tmp_path / "secret",)), Bounds(())):
        with pytest.raises(InputError, match=OUTSIDE):
            open_reader(path, USUAL, another)
        with pytest.raises(InputError, match=OUTSIDE):
            check_named(path, USUAL, another)


@pytest.mark.parametrize(
    "named", ["/etc/shadow", "../secret/00.png", "files/../../secret/00.png", "../nothing.png", "out/00.png"]
)
@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "struct"])
def test_a_table_that_names_a_file_outside_is_refused_whether_or_not_it_is_there(
    pictures: Any, root: Path, bounds: Bounds, named: str, form: str
) -> None:
    (root / "out").symlink_to(root.parent / "secret")
    good = pictures.files()[0]
    if form == "struct":
        images = [{"bytes": pictures.encode(0), "path": "/etc/shadow"}, {"bytes": None, "path": named}]
        path = pictures.parquet({"image": images, "label": [0, 1]}, "hf.parquet")
    elif form == "parquet":
        path = pictures.parquet({"path": [good, named], "label": [0, 1]}, "rows.parquet")
    else:
        path = root / f"rows.{form}"
        path.write_text(f"path,label\n{good},0\n{named},1\n".replace(",", "\t" if form == "tsv" else ","))
    row = "row 2" if form in ("struct", "parquet") else "line 3"
    with pytest.raises(InputError) as refused:
        check_named(str(path), USUAL, bounds)
    assert row in str(refused.value)
    assert OUTSIDE in str(refused.value)
    with pytest.raises(InputError, match=OUTSIDE):
        open_reader(str(path), USUAL, bounds)


def test_what_a_row_with_bytes_says_of_its_origin_is_not_read(pictures: Any, bounds: Bounds) -> None:
    images = [{"bytes": pictures.encode(n), "path": f"/home/somebody/{n}.png"} for n in range(4)]
    path = str(pictures.parquet({"image": images, "label": [0, 1, 2, 3]}, "hf.parquet"))
    check_named(path, USUAL, bounds)
    reader = open_reader(path, USUAL, bounds)
    assert reader.open(3).size == (28, 28)


@pytest.mark.parametrize("what", ["image", "class folder", "shard", "parquet", "labels"])
def test_links_inside_a_folder_must_stay_below_the_root(
    pictures: Any, root: Path, bounds: Bounds, what: str, tmp_path: Path
) -> None:
    form = {"image": "flat folder", "class folder": "class folders", "shard": "tar", "labels": "idx"}
    path = FORMS[form.get(what, "hugging face")](pictures)
    linked = {
        "image": path / "00.png",
        "class folder": path / "class0",
        "shard": path / "shard-000.tar" if what == "shard" else path,
        "labels": path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1")),
        "parquet": path,
    }[what]
    for place, refused in ((root / "moved", False), (tmp_path / "moved", True)):
        moved = place / linked.name
        place.mkdir()
        shutil.move(linked, moved)
        linked.symlink_to(moved)
        if refused:
            with pytest.raises(InputError, match=OUTSIDE):
                open_reader(str(path), USUAL, bounds)
        assert len(open_reader(str(path), USUAL, Bounds() if refused else bounds)) == 20
        linked.unlink()
        shutil.move(moved, linked)


@pytest.mark.parametrize("braces", ["{..,..}/secret/{a,b}.tar", "x/{.,.}{.,.}/../secret/{a,b}.tar", "/etc/{a,b}.tar"])
def test_braces_do_not_climb_out(root: Path, bounds: Bounds, braces: str) -> None:
    for check in (check_named, open_reader):
        with pytest.raises(InputError, match=OUTSIDE):
            check(str(root / braces), USUAL, bounds)
