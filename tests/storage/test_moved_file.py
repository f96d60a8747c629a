"""The SQLite file goes away under an open store: said at once, and nothing that was written is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from search.config.spec import StudySpec
from search.errors import StorageLostError
from search.runtime.retry import RetryPolicy
from search.storage.store import Store


def delete(path: Path) -> None:
    for name in (path, *path.parent.glob(f"{path.name}-*")):
        name.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))  # its write-ahead log stays behind


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("other.db"))
    path.with_name("other.db").replace(path)


@pytest.mark.parametrize("go", [delete, move, replace])
def test_it_is_said_at_once_and_everything_is_saved(
    store: Store, spec: StudySpec, go: Callable[[Path], None], tmp_path: Path
) -> None:
    later = store.add_study(spec.model_copy(update={"name": "later"}))  # still in the write-ahead log
    path = Path(str(store.url).removeprefix("sqlite:///"))
    go(path)
    for _ in range(2):
        with pytest.raises(StorageLostError, match="was moved or deleted while it was in use") as caught:
            RetryPolicy(60).wrap(store).set_state(later.id, "running")
    rescued = path.with_name(f"{path.stem}-rescued.db")
    assert f"mv {rescued} {path}" in str(caught.value)
    assert (f"rm {path}-wal {path}-shm; mv" in str(caught.value)) == (go is move)
    if go is not replace:
        assert not path.exists()  # no empty file took its place
    saved = Store.open(f"sqlite:///{rescued}")
    assert {study.name for study in saved.studies()} == {"shirts", "later"}
    assert saved.evaluations(saved.study("shirts").id)
    saved.close()


def test_a_folder_that_is_gone_takes_the_rescue_with_it(store: Store) -> None:
    path = Path(str(store.url).removeprefix("sqlite:///"))
    delete(path)
    shutil.rmtree(path.parent)
    with pytest.raises(StorageLostError, match="put it back with its -wal file, or a backup of it"):
        store.studies()
