"""Files of text embeddings: every form that is read, and what is wrong with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pruning.backbones import Backbone
from search.config.objectives import ObjectivesSpec
from search.errors import InputError
from search.evaluation.class_texts import ClassTexts, embed_classes, read_class_texts

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
NAMES = ("cat", "dog", "eel")


def read(text: Any) -> ClassTexts:
    return read_class_texts(ObjectivesSpec(accuracy="zero-shot", text=text))


FORMS: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "t.npy": (lambda path: np.save(path, ROWS), False),
    "t.npz": (lambda path: np.savez(path, embeddings=ROWS, names=np.array(NAMES)), True),
    "one.npz": (lambda path: np.savez(path, ROWS), False),
    "double.npz": (lambda path: np.savez(path, embeddings=ROWS.astype(np.float64), names=np.array(NAMES)), True),
    "t.safetensors": (lambda path: save_file({"embeddings": ROWS}, path, {"names": json.dumps(NAMES)}), True),
    "bare.safetensors": (lambda path: save_file({"text_features": ROWS}, path), False),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same(name: str, tmp_path: Path) -> None:
    write, named = FORMS[name]
    write(tmp_path / name)
    found = read(str(tmp_path / name))
    assert found.embeddings is not None
    assert found.embeddings.numpy().tolist() == ROWS.tolist()
    assert (found.count, found.names) == (3, NAMES if named else ())


def test_identity_is_of_numbers_names_and_prompt(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", embeddings=ROWS, names=np.array(NAMES))
    np.savez(tmp_path / "b.npz", embeddings=ROWS * 2, names=np.array(NAMES))
    np.savez(tmp_path / "c.npz", embeddings=ROWS, names=np.array(NAMES[::-1]))
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    asked = [ObjectivesSpec(accuracy="zero-shot", text=str(tmp_path / name)) for name in ("a.npz", "b.npz", "c.npz")]
    asked += [ObjectivesSpec(accuracy="zero-shot", text=("cat", "dog"), prompt=prompt) for prompt in (None, "{}")]
    assert len({read_class_texts(each).identity for each in asked}) == 5
    listed = read(str(tmp_path / "names.txt"))
    assert listed == read(("cat", "dog"))
    assert (listed.names, listed.embeddings) == (("cat", "dog"), None)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "broken.npy": (lambda path: path.write_bytes(b"no"), r"broken\.npy cannot be read"),
    "broken.safetensors": (lambda path: path.write_bytes(b"no"), r"broken\.safetensors cannot be read"),
    "pickle.npy": (lambda path: np.save(path, np.array([{}, {}]), allow_pickle=True), r"pickle\.npy cannot be read"),
    "vector.npy": (
        lambda path: np.save(path, ROWS[0]),
        r"must hold embeddings .* got float32 \[4\]",
    ),
    "whole.npy": (
        lambda path: np.save(path, np.ones((3, 4), dtype=int)),
        r"floating-point .*got int64 \[3, 4\]",
    ),
    "nan.npy": (lambda path: np.save(path, ROWS * np.nan), r"must hold finite numbers, and no row of zeros"),
    "zero.npy": (lambda path: np.save(path, ROWS * [[1], [0], [1]]), r"must hold finite numbers, and no row of zeros"),
    "two.npz": (lambda path: np.savez(path, a=ROWS, b=ROWS), r"must hold one array, or one .* embeddings, got a, b"),
    "names.npz": (
        lambda path: np.savez(path, embeddings=ROWS, names=np.array(NAMES[:2])),
        r"must name each of its 3 rows, got 2 names",
    ),
    "one.txt": (lambda path: path.write_text("cat\n"), r"must hold the names of two classes or more, .*got 1"),
    "twice.txt": (lambda path: path.write_text("cat\ndog\ncat\n"), r"must name each class once, got 'cat' twice"),
    "bytes.txt": (lambda path: path.write_bytes(b"\xff\xff"), r"bytes\.txt cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_serve_is_refused(name: str, tmp_path: Path) -> None:
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"^objectives\.text: .*{message}|^objectives\.text {message}") as caught:
        read(str(tmp_path / name))
    assert "Traceback" not in str(caught.value)


def test_names_are_embedded_by_the_backbones_own_text_tower_alone(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"must be a file of embeddings, unless the backbone is OpenCLIP's.*for demo"):
        embed_classes(("cat", "dog"), "{}", backbone)
