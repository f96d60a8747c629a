"""Studies of a store: what they said keeps its meaning, and a file that leaves something out contradicts nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pruning.methods import METHODS, REVISION
from search.config.continuation import check_same, continued_spec, differences, smaller_budget, what_continues
from search.config.search_sections import SpaceSpec
from search.config.spec import StudySpec, make_spec, read_stored_spec
from search.errors import InputError, SpecConflictError
from search.types import Progress

SMALL: dict[str, Any] = {"name": "shirts", "backbone": {"name": "demo"}}
OLD_SPACE = {  # as the last release without revisions wrote it out, all fields at their defaults of then
    "methods": ["zero-tprune"],
    "options": {},
    "max_stages": 4,
    "blocks": None,
    "keep": [0.5, 1.0],
    "wpr_iterations": [1, 50],
    "partition": [0.3, 0.7],
    "similarity_share": [0.0, 1.0],
}


def spec(**sections: Any) -> StudySpec:
    return make_spec({**SMALL, **sections}, "test")


def stored(**space: Any) -> StudySpec:
    return read_stored_spec({**SMALL, "space": {**OLD_SPACE, **space}}, "study shirts")


class TestReading:
    def test_a_space_without_a_revision_is_of_the_first(self) -> None:
        space = stored().space
        assert (space.revision, space.mixed, space.exact_savings) == (1, False, False)
        assert space.model_dump(mode="json", include=set(OLD_SPACE)) == OLD_SPACE

    def test_names_that_were_accepted_then_are_read(self) -> None:
        named = {"name": "vit\x1b[2J", "weights": "random"}
        odd = read_stored_spec({**SMALL, "backbone": named, "data": {"source": "demo"}}, "study shirts")
        assert odd.backbone.name == "vit\x1b[2J"

    def test_several_methods_of_then_do_not_mix(self) -> None:
        assert not stored(methods=list(METHODS)).space.is_mixed

    def test_words_of_then_stay_as_they_are(self) -> None:
        """Optuna's trials are bound to the values that were listed."""
        listed = {"zero-tprune": {"similarity": [True, False]}}
        assert stored(options=listed).space.options == {"zero-tprune": {"similarity": (True, False)}}

    @pytest.mark.parametrize("space", [{}, {"max_stages": 3}, {"blocks": [2, 4]}, {"methods": ["tome", "random"]}])
    def test_a_study_of_today_comes_back_the_same(self, space: dict[str, Any]) -> None:
        made = spec(space=space)
        again = read_stored_spec(made.to_dict(), "study shirts")
        assert again == made
        assert (again.space.revision, again.space.exact_savings) == (REVISION, True)
        assert read_stored_spec(again.to_dict(), "study shirts") == again

    def test_an_old_study_that_is_written_out_again_stays_what_it_was(self) -> None:
        assert read_stored_spec(stored().to_dict(), "study shirts") == stored()

    def test_what_cannot_be_read_is_refused_with_the_place(self) -> None:
        with pytest.raises(InputError, match=r"^study shirts: space\.methods must hold only known methods"):
            stored(methods=["of-a-later-release"])


class TestDifferences:
    @pytest.mark.parametrize(
        "sections",
        [
            {},
            {"space": {"max_stages": 4}},
            {"space": {"keep": [0.5, 1.0], "wpr_iterations": [1, 50]}},
            {"space": {"methods": ["zero-tprune"]}},
            {"space": OLD_SPACE},
            {"space": {"methods": ["zero-tprune"], "mixed": False, "revision": 1, "exact_savings": False}},
        ],
    )
    def test_what_is_left_out_contradicts_nothing(self, sections: dict[str, Any]) -> None:
        """Such files began the old study, or would begin another one today."""
        assert differences(stored(), spec(**sections)) == []

    @pytest.mark.parametrize(
        ("space", "expected"),
        [
            ({"methods": ["tome"]}, ["space.methods: ['zero-tprune'] -> ['tome']"]),
            ({"max_stages": 12}, ["space.max_stages: 4 -> 12"]),
            ({"mixed": True}, ["space.mixed: False -> True"]),
            ({"exact_savings": True}, ["space.exact_savings: False -> True"]),
            ({"revision": REVISION}, [f"space.revision: 1 -> {REVISION}"]),
            ({"keep": [0.1, 1.0]}, ["space.keep: [0.5, 1.0] -> [0.1, 1.0]"]),
        ],
    )
    def test_what_is_said_otherwise_is_named(self, space: dict[str, Any], expected: list[str]) -> None:
        assert differences(stored(), spec(space=space)) == expected

    def test_all_of_a_spec_that_is_written_out_is_compared(self) -> None:
        """A service's answer, say: every field of it is given."""
        written = make_spec(spec().to_dict(), "test")
        found = differences(stored(), written)
        assert "space.revision: 1 -> 4" in found
        assert "space.mixed: False -> True" in found


class TestContinued:
    def test_is_the_stored_one_with_other_means(self) -> None:
        wanted = spec(runtime={"workers": 3, "engine": "ray"})
        found = continued_spec(stored(), wanted)
        assert (found.runtime.workers, found.runtime.engine) == (3, "ray")
        assert found.space == stored().space
        assert found.model_copy(update={"runtime": stored().runtime}) == stored()

    def test_has_the_stored_means_where_none_are_given(self) -> None:
        before = spec(runtime={"workers": 5, "trial_timeout": "3m"})
        found = continued_spec(before, spec(runtime={"workers": 2}))
        assert (found.runtime.workers, found.runtime.trial_timeout) == (2, 180.0)

    @pytest.mark.parametrize(
        ("before", "wanted", "after", "kept"),
        [
            ({"trials": 40}, {"trials": 60}, {"trials": 60}, []),
            ({"trials": 40}, {"trials": 30}, {"trials": 40}, ["budget.trials: 40, not 30"]),
            ({"trials": 40}, {}, {"trials": 40}, []),
            ({"trials": 40, "time": "1h"}, {"trials": 40, "time": "2h"}, {"trials": 40, "time": "2h"}, []),
            ({"time": "1h"}, {"time": "30m"}, {"time": "1h"}, ["budget.time: 1h, not 30m"]),
            ({"time": "1h"}, {"time": None}, {"time": None, "trials": 10_000}, []),
            ({"trials": 40, "time": "1h"}, {"time": "2h"}, {"trials": 40, "time": "2h"}, []),
            ({}, {"time": "1h"}, {}, ["budget.time: null, not 1h"]),
            ({"time": "1h"}, {}, {"time": "1h"}, []),
        ],
    )
    def test_has_the_larger_budget(
        self, before: dict[str, Any], wanted: dict[str, Any], after: dict[str, Any], kept: list[str]
    ) -> None:
        old, new = spec(budget=before), spec(budget=wanted)
        assert continued_spec(old, new) == spec(budget=after)
        assert smaller_budget(old, new) == kept

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"done": 8}, "all 8 trials are done; ztp launch with --trials above 8 continues it"),
            ({"seconds": 60.0, "limit_s": 60.0}, "its time is used up; ztp launch with a longer --time continues it"),
            (
                {"patience": 2, "stagnant": 3},
                "its front has not grown for 3 trials; ztp launch with --patience above 3 continues it",
            ),
            (
                {"done": 8, "limit_s": 1.0},
                "all 8 trials are done and its time is used up; "
                "ztp launch with --trials above 8 and a longer --time continues it",
            ),
            ({}, ""),
        ],
    )
    def test_what_continues_a_study_that_is_done(self, changes: dict[str, Any], words: str) -> None:
        progress = Progress("done", 3, 8, 12.0, 1, 0.0, None)
        assert what_continues(replace(progress, **changes)) == words

    @pytest.mark.parametrize("limit", [{"max_gflops": 0.1}, {"min_speedup": 1.5}, {"max_accuracy_drop": 0.5}])
    def test_a_changed_limit_is_refused_with_the_reason(self, limit: dict[str, Any]) -> None:
        old = spec(budget={"max_gflops": 0.2, "min_speedup": 1.2, "max_accuracy_drop": 0.1})
        with pytest.raises(SpecConflictError, match="its limits decided which schedules were measured"):
            check_same(old, spec(budget={**limit, "trials": 500}), "here")
        check_same(old, spec(budget={"trials": 500}), "here")

    def test_has_the_stored_space_though_the_file_has_another_default(self) -> None:
        assert continued_spec(stored(), spec()).space.methods == ("zero-tprune",)
        assert SpaceSpec().methods == tuple(METHODS)
