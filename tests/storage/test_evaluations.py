"""How evaluations are looked for: by an index, however many images each has bits of. Their invariants are in
tests/contracts/stores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.config.spec import make_spec
from search.storage.store import Store
from search.types import Evaluation


@pytest.fixture
def opened(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


def plans(store: Store, call: Callable[[], object]) -> list[str]:
    """SQLite's plan for every query that reads evaluations while `call` runs."""
    queries: list[tuple[str, Any]] = []

    def note(_cursor: Any, statement: str, parameters: Any, _context: Any) -> None:
        queries.append((statement, parameters))

    sa.event.listen(store._engine, "do_execute", note)
    call()
    sa.event.remove(store._engine, "do_execute", note)
    steps = []
    with store._engine.connect() as connection:
        for statement, parameters in queries:
            if "FROM ztp_evaluation" in statement:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                steps.append("; ".join(row.detail for row in rows))
    return steps


def test_progress_reads_no_row_and_what_is_reusable_is_one(
    opened: Store, make_evaluation: Callable[..., Evaluation]
) -> None:
    study_id = opened.add_study(make_spec({"name": "shirts", "backbone": {"name": "demo"}}, "test")).id
    slot = opened.trials.reserve(study_id, "first", 1)
    assert slot is not None
    opened.trials.complete(slot, make_evaluation(0, 0.9, 1.0).search, True, 0)
    progress = plans(opened, lambda: opened.progress(study_id))
    assert [step for step in progress if "USING COVERING INDEX ztp_evaluation_by_complete" in step]
    (reusable,) = plans(opened, lambda: opened.reusable("ab" * 32))
    assert "USING INDEX ztp_evaluation_by_identity" in reusable
