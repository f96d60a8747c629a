"""Real pictures, and writers of every form of collection; what all forms of the same pictures must agree on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SIDE = 28


def draw(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey pictures [count, SIDE, SIDE]."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)


def png(picture: NDArray[np.uint8]) -> bytes:
    """Without loss, so that every form holds the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Pictures:
    """Pictures with class indices 0..9 in `folder`, and what writes them there in each form."""

    folder: Path
    pixels: NDArray[np.uint8] = field(default_factory=lambda: draw(20))
    labels: list[int] = field(default_factory=lambda: [i % 10 for i in range(20)])
    broken: int | None = None  # the picture whose file ends in its middle

    def encode(self, number: int) -> bytes:
        content = png(self.pixels[number])
        return content[: len(content) // 2] if number == self.broken else content

    def files(self) -> list[str]:
        """Writes one file each below `files`; their paths relative to `folder`."""
        (self.folder / "files").mkdir(exist_ok=True)
        names = [f"files/{number:02}.png" for number in range(len(self.pixels))]
        for number, name in enumerate(names):
            (self.folder / name).write_bytes(self.encode(number))
        return names

    def class_folders(self) -> Path:
        for number, label in enumerate(self.labels):
            path = self.folder / "classes" / f"class{label}" / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.encode(number))
        return self.folder / "classes"

    def flat_folder(self) -> Path:
        self.files()
        return self.folder / "files"

    def rows(self, ending: str = ".csv", header: Sequence[str] = ("path", "label")) -> Path:
        path = self.folder / f"images{ending}"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",")
            writer.writerows([header, *zip(self.files(), self.labels, strict=True)])
        return path

    def lines(self, labelled: bool = True) -> Path:
        """As Caffe's val.txt: a path and a label, or a path alone, without a header."""
        path = self.folder / "val.txt"
        rows = zip(self.files(), self.labels, strict=True)
        path.write_text("".join(f"{name} {label}\n" if labelled else f"{name}\n" for name, label in rows))
        return path

    def parquet_rows(self) -> Path:
        return self.parquet({"file_name": self.files(), "label": self.labels}, "rows.parquet")

    def hugging_face(self, shards: int = 1, names: bool = True) -> Path:
        """A file or a folder of shards as `datasets` writes them."""
        features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}
        if names:
            features["label"]["names"] = [f"c{label}" for label in range(10)]
        images = [{"bytes": self.encode(n), "path": f"{n}.png"} for n in range(len(self.pixels))]
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        size = len(images) // shards
        paths = [
            self.parquet(
                {"image": images[start : start + size], "label": self.labels[start : start + size]},
                f"hf/data/validation-{start // size:05}-of-{shards:05}.parquet",
                metadata,
            )
            for start in range(0, len(images), size)
        ]
        return paths[0] if shards == 1 else self.folder / "hf"

    def parquet(self, columns: dict[str, Any], name: str, metadata: dict[str, str] | None = None) -> Path:
        import pyarrow
        import pyarrow.parquet

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, path, row_group_size=3)
        return path

    def idx(self, ending: str = "") -> Path:
        """The file of images; its labels lie beside it."""
        images = struct.pack(">4B3I", 0, 0, 8, 3, *self.pixels.shape) + self.pixels.tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, len(self.labels)) + bytes(self.labels)
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = self.folder / "idx" / f"t-{name}-ubyte{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(content) if ending else content)
        return self.folder / "idx" / f"t-images-idx3-ubyte{ending}"

    def tar(self, shards: int = 2, label: str = "cls") -> Path:
        """A folder of shards."""
        size = len(self.pixels) // shards
        for shard in range(shards):
            members: dict[str, bytes] = {}
            for n in range(shard * size, (shard + 1) * size):
                text = str(self.labels[n]) if label == "cls" else json.dumps({"label": self.labels[n]})
                members[f"s/{n:03}.png"] = self.encode(n)
                if label:
                    members[f"s/{n:03}.{label}"] = text.encode()
            write_tar(self.folder / "shards" / f"shard-{shard:03}.tar", members)
        return self.folder / "shards"

    def write_tar(self, name: str, members: dict[str, bytes]) -> Path:
        return write_tar(self.folder / name, members)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path)
