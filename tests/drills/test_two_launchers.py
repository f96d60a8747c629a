"""Two launches of one study on one database, and two workers beside: one budget, one front."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.store import Store
from tests.drills.nursery import ROOT, Nursery, drill_spec, prepare
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_mirrored, check_sound

LAUNCH = """
import sys
from search.config.spec import make_spec
from search.runtime.launch import launch
from search.storage.store import Store
store = Store.open(sys.argv[1])
document = store.study(sys.argv[2]).document
spec = make_spec({**document, "budget": {"trials": int(sys.argv[3])}}, "drill")
store.close()
print(launch(spec, sys.argv[1], lambda progress: None).state)
"""


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "old"), [("sqlite", 8), ("postgresql", 4)])
def test_two_launches_of_one_study(
    kind: str, old: int, tmp_path: Path, request: pytest.FixtureRequest, report: Callable[..., None]
) -> None:
    """Real evaluations; both launches search, confirm and end, whoever is first.

    old: the budget that the study had, and that one of the launches still asks for.
    """
    trials = 8
    postgres: PostgreSQL | None = request.getfixturevalue("postgres") if kind == "postgresql" else None
    url = postgres.new_database() if postgres else f"sqlite:///{tmp_path}/two.db"
    store = Store.open(url)
    record = prepare(store, drill_spec("two", old))
    with Nursery(url, "two", 0.2) as nursery:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", LAUNCH, url, "two"]
        launches = [
            subprocess.Popen([*command, str(budget)], stdout=subprocess.PIPE, text=True, env=variables)
            for budget in (old, trials)
        ]
        nursery.spawn()
        said = [launch.communicate(timeout=300)[0] for launch in launches]
    assert said == ["done\n", "done\n"]
    complete = len(store.tasks.slots(record.id, "done"))
    report(
        drill=f"two launches{'' if old == trials else ', one with twice the budget'}, {kind}",
        expected=trials,
        complete=complete,
        lost=trials - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(record.id, "done")}),
    )
    check_sound(store, "two", trials)
    check_mirrored(store, "two")
    assert (store.study("two").state, store.progress(record.id).total) == ("done", trials)
    store.close()
