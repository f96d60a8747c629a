"""What other studies of the store found out, for a new study to take over what holds for it too.

A latency profile is taken over only where its own study has shown it to be right, by the measured speed of finalists.
Knows records. Ignores what facts depend on: see `search.evaluation.rig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search.evaluation.facts import Facts
from search.fleet.worker import FACTS
from search.store.records import StudyRecord

PROFILE_ERROR = "profile_error"  # the key of a study's provenance: median error of its finalists' predicted speed-ups
TRUSTED_ERROR = 0.05  # up to this a profile serves other studies


def found_elsewhere(records: Sequence[StudyRecord], name: str) -> dict[str, Facts]:
    """By name, newest first, what all studies but `name` found out.

    Without the profile where it was found to be wrong; without its key where that is not known yet.
    """
    found = {}
    for record in reversed(records):
        known = record.provenance.get(FACTS)
        if known is None or record.name == name:
            continue
        facts, error = Facts(**known), record.provenance.get(PROFILE_ERROR)
        if error is None:
            facts = replace(facts, profile_key="")
        elif error > TRUSTED_ERROR:
            facts = replace(facts, profile=None)
        found[record.name] = facts
    return found
