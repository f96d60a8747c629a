"""What is wrong with a collection, by `ztp evaluate`: exit 2, one message with place and value and remedy."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.backbones import Backbone
from search.config.spec import check_files
from search.errors import InputError
from search.evaluation.data.sources import Collection
from search.evaluation.data.splits import open_images

Spoil = Callable[[Any], Any]


def text(name: str, content: str | bytes) -> Spoil:
    """A file in the pictures' folder, beside files/00.png and so on."""

    def write(pictures: Any) -> Path:
        pictures.files()
        path: Path = pictures.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def table(columns: dict[str, list[Any]]) -> Spoil:
    return lambda pictures: (pictures.files(), pictures.parquet(columns, "t.parquet"))[1]


def cut(write: Spoil, share: float = 0.7, name: str = "") -> Spoil:
    """A form whose file, or `name` in it, ends early."""

    def spoil(pictures: Any) -> Any:
        path = write(pictures)
        file = path / name if name else path
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        return path

    return spoil


def tar(members: dict[str, bytes]) -> Spoil:
    def write(pictures: Any) -> Path:
        path: Path = pictures.write_tar("bad.tar", members)
        return path

    return write


def few_labels(pictures: Any) -> Path:
    path: Path = pictures.idx()
    (path.parent / "t-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(3))
    return path


def two_idx(pictures: Any) -> Path:
    path: Path = pictures.idx()
    (path.parent / "train-images-idx3-ubyte").write_bytes(path.read_bytes())
    return path.parent


def two_splits(pictures: Any) -> Path:
    folder: Path = pictures.hugging_face(shards=2)
    shard = folder / "data" / "validation-00000-of-00002.parquet"
    shard.with_name("train-00000-of-00001.parquet").write_bytes(shard.read_bytes())
    return folder


def gzipped_tar(pictures: Any) -> Path:
    path: Path = pictures.tar(shards=1) / "shard-000.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


PNG = "files/00.png"
ROWS: list[tuple[Any, ...]] = [
    # a table of paths
    (text("a.csv", f"picture,label\n{PNG},1\n"), "must have a column of images named path", "got picture, label"),
    (text("a.csv", f"path,colour\n{PNG},1\n"), "got no labels: no column named label", "path, colour", "agreement"),
    (text("a.csv", ""), "must have a column of images", "got no columns"),
    (text("a.csv", "path,label\n"), "a.csv must hold at least one row, got none"),
    (text("a.csv", f"path,label\n{PNG},1\nfiles/99.png,1\n"), "a.csv, line 3: no such image file", "files/99.png"),
    (text("a.csv", f"path,label\n{PNG},1\n{PNG}\n"), "a.csv, line 3: must have 2 fields as the header, got 1"),
    (text("a.csv", f"path,label\n{PNG},\n"), "a.csv, line 2: the label must not be empty"),
    (text("a.txt", f"{PNG} 1\n{PNG}\n"), "a.txt, line 2: the label must not be empty"),
    (text("a.csv", "path,label\n,1\n"), "a.csv, line 2: the path must not be empty"),
    (text("a.csv", f"path,label\n{PNG},10\n"), "got class index 10, where 0..9 are the backbone's"),
    (text("a.csv", f"path,label\n{PNG},shirt\n"), "got 1 class names (shirt)"),
    (text("a.csv", b"path,label\n\xff\xfe,1\n"), "a.csv must be UTF-8 text"),
    (text("a.csv", 'path,label\n"files/00.png,1\n'), "a.csv is not a readable table"),
    (text("a.doc", "x"), "data.path must be a folder of images, tar shards (.tar)", "got the file"),
    # parquet
    (text("a.parquet", "no parquet"), "a.parquet is not a readable parquet file"),
    (cut(lambda pictures: pictures.hugging_face()), "is not a readable parquet file", "fetch it again"),
    (table({"path": ["files/00.png", "no.png"], "label": [0, 1]}), "t.parquet, row 2: no such image file", "no.png"),
    (table({"path": ["files/00.png"] * 2, "label": [0, None]}), "t.parquet row 2: label must be a class index", "None"),
    (table({"image": [1, 2], "label": [0, 1]}), "column image must hold images", "got int64", "data.image_column"),
    (table({"pic": ["a"], "label": [0]}), "must have a column of images", "got pic, label"),
    (table({"path": [PNG], "label": [0.5]}), "t.parquet row 1: label must be a class index or name, got 0.5"),
    (two_splits, "must name the files of one split", "train, validation", "validation-{00000..00001}-of-00002.parquet"),
    # IDX
    (cut(lambda pictures: pictures.idx()), "must hold 15680 bytes behind its header, got only"),
    (cut(lambda pictures: pictures.idx(".gz")), "is a broken gzip file"),
    (text("x-images-idx3-ubyte", b"\x00\x00\x0d\x03"), "must be an IDX file of unsigned bytes in 3 dim", "00000d03"),
    (text("x-images-idx3-ubyte", b""), "the first bytes of an empty file"),
    (text("x-images-idx3-ubyte", b"\x00\x00\x08\x03\x00"), "ends within its header"),
    (few_labels, "must hold a label for each of the 20 images", "got 3"),
    (two_idx, "must name one IDX file of images", "t-images-idx3-ubyte, train-images-idx3-ubyte"),
    # tar
    (cut(lambda pictures: pictures.tar(), name="shard-001.tar"), "shard-001.tar must be a tar file, whole", "again"),
    (gzipped_tar, "shard-000.tar must be a tar file, whole and not compressed"),
    (tar({"a.txt": b"x"}), "bad.tar must hold images as KEY.jpg", "got none"),
    (tar({"a.png": b"x", "a.cls": b"1", "b.png": b"x"}), "every image must have a label", "got none for", "bad.tar: b"),
    (tar({"a.png": b"x", "a.jpg": b"x", "a.cls": b"1"}), "bad.tar: a must have one image, got a.png and a.jpg"),
    (tar({"a.png": b"x", "a.json": b"{"}), "bad.tar: a.json cannot be read as a label", "fix it"),
    (tar({"a.png": b"x", "a.json": b'{"label": [1]}'}), "a.json must hold a class index or name, got [1]"),
    (tar({"a.png": b"x", "a.cls": b""}), "a.cls must hold a class index or name, got ''"),
    (tar({"a.png": b"x"}), "got no labels: images without KEY.cls or KEY.json", "accuracy: agreement"),
    # numbers in braces
    (lambda pictures: pictures.tar() / "shard-{000..004}.tar", "of which 3 of 5 are not there", "shard-002.tar"),
    (lambda pictures: pictures.tar() / "shard-{4..1}.tar", "must count upwards in braces, got {4..1}"),
    (lambda pictures: pictures.tar() / "shard-{000}.tar", "must have {FIRST..LAST} or {A,B} in braces, got {000}"),
    (lambda pictures: pictures.tar() / "shard-{0..99999999}.tar", "must name at most 100000 files"),
    (lambda pictures: pictures.rows().parent / "{images,images}.csv", "data.path must be one path, or files that are"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:40])
def test_is_refused(pictures: Any, small_spec: Any, backbone: Backbone, row: tuple[Any, ...]) -> None:
    spoil, *words = row
    spec = small_spec(data={"path": str(spoil(pictures)), "search_images": 1, "confirm_images": 1})

    def opened() -> None:
        check_files(spec)
        open_images(spec.data, spec.objectives, backbone)

    with pytest.raises(InputError) as refusal:
        opened()
    for word in words:
        assert word in str(refusal.value)
    assert "data.path" in str(refusal.value)


@pytest.mark.parametrize("place", [0, 4, 13, 19, 24, 30])
def test_by_the_command_line(pictures: Any, ztp: Callable[..., Any], place: int) -> None:
    spoil, *words = ROWS[place]
    configuration = {
        "format": 1,
        "backbone": {"name": "demo", "weights": "bundled"},
        "schedule": {"method": "zero-tprune", "stages": [{"block": 2, "keep": 0.9}]},
        "data": {"path": str(spoil(pictures)), "search_images": 1, "confirm_images": 1},
        "runtime": {"dtype": "float32", "batch_size": 20},
    }
    Path("best.yaml").write_text(yaml.safe_dump(configuration))
    ran = ztp("evaluate", "best.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert ran.err.splitlines()[-1].startswith("ztp: ")
    for word in words:
        assert word in ran.err


@pytest.mark.parametrize(("columns", "label"), [({"label_column": "coarse"}, 1), ({"label_column": "fine"}, 7)])
def test_columns_can_be_named(pictures: Any, backbone: Backbone, columns: dict[str, str], label: int) -> None:
    from search.evaluation.data.readers import Columns

    pictures.files()
    path = pictures.parquet({"path": ["files/00.png"], "coarse": [1], "fine": [7]}, "t.parquet")
    labels = Collection(str(path), backbone, Columns(label=columns["label_column"])).labels
    assert labels is not None
    assert labels.tolist() == [label]


@pytest.mark.parametrize("key", ["image_column", "label_column"])
def test_a_column_that_is_not_there(pictures: Any, small_spec: Any, backbone: Backbone, key: str) -> None:
    spec = small_spec(data={"path": str(pictures.rows()), key: "no"})
    with pytest.raises(InputError, match=rf"data\.{key} must be a column of .*images\.csv \(path, label\), got 'no'"):
        open_images(spec.data, spec.objectives, backbone)
