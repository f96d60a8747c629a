"""What a study starts from: read once, kept as plain data, refused where it cannot be used, adapted where it can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pruning.config import Config
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.continuation import differences
from search.config.spec import StudySpec, make_spec
from search.config.warm_start import (
    Start,
    check_start,
    provenance_of,
    read_start,
    start_schedules,
    without_files,
)
from search.errors import InputError, UnknownStudyError

SCHEDULE = Schedule([Stage(3, 0.6, similarity_share=0.5, partition=0.5, wpr_iterations=2)], "zero-tprune")
OTHER = Schedule([Stage(2, 0.8), Stage(6, 0.7)], "tome")
SPACE = {"methods": ["zero-tprune"], "max_stages": 3}


def spec(*start: Any, **sections: Any) -> StudySpec:
    document = {"name": "shirts", "backbone": {"name": "demo"}, "space": SPACE, "start": list(start)}
    return make_spec({**document, **sections}, "test")


def front_of(name: str) -> tuple[str, Sequence[Schedule]]:
    if name != "hats":
        raise UnknownStudyError("", "study must be a known one", repr(name))
    return "vit_tiny_patch16_224", [UNTOUCHED, SCHEDULE, OTHER]


@pytest.fixture
def exported(tmp_path: Path) -> str:
    path = tmp_path / "best.yaml"
    Config({"name": "demo", "weights": "bundled"}, SCHEDULE).write(path)
    return str(path)


class TestRead:
    def test_files_studies_and_schedules_in_order(self, exported: str) -> None:
        found = read_start(spec(exported, "study:hats", OTHER.to_dict()), front_of)
        assert found == [
            Start(exported, "demo", (SCHEDULE,)),
            Start("study:hats", "vit_tiny_patch16_224", (SCHEDULE, OTHER)),  # the dense model is measured anyway
            Start("start[2]", None, (OTHER,)),
        ]
        assert [Start.from_dict(data) for data in provenance_of(found)["start"]] == found
        assert provenance_of([]) == {}

    def test_what_cannot_be_read_is_named_by_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text("format: 1\n")
        for entry, rule in (
            (str(tmp_path / "missing.yaml"), r"shirts: start\[1\]: .*missing\.yaml"),
            (str(tmp_path / "bad.yaml"), r"shirts: start\[1\]: .*must be an exported configuration"),
            ("study:caps", r"shirts: start\[1\]: study must be a known one, got 'caps'"),
        ):
            with pytest.raises(InputError, match=rule):
                read_start(spec(SCHEDULE.to_dict(), entry), front_of)

    def test_no_file_is_read_for_somebody_elsewhere(self, exported: str) -> None:
        with pytest.raises(InputError, match=r"start\[0\] must be study:NAME or a schedule in a study that is posted"):
            read_start(spec(exported), front_of, allow_files=False)
        written_out = without_files(spec(exported, "study:hats"))
        assert written_out.start == (SCHEDULE.to_dict(), "study:hats")
        assert read_start(written_out, front_of, allow_files=False)[0].schedules == (SCHEDULE,)

    @pytest.mark.parametrize(
        ("start", "rule"),
        [
            ("best.yaml", r"start must be a list, .* got 'best.yaml'"),
            ([1], r"start\[0\] must be an exported file, study:NAME, or a schedule"),
            (["a.yaml", "study:"], r"start\[1\] must be an exported file"),
            ([{"stages": [{"block": 1}]}], r"start\[0\]: stages\[0\]\.keep is required"),
        ],
    )
    def test_other_entries_are_refused(self, start: Any, rule: str) -> None:
        with pytest.raises(InputError, match=rule):
            make_spec({"name": "shirts", "backbone": {"name": "demo"}, "start": start}, "test")

    def test_it_decides_results_so_it_cannot_change(self, exported: str) -> None:
        assert differences(spec(exported), spec(exported)) == []
        assert differences(spec(), spec(exported)) == [f"start: null -> ['{exported}']"]
        assert "start" not in spec().to_dict()  # an earlier release takes such a study
        assert make_spec(spec(exported).to_dict(), "again") == spec(exported)


class TestCheck:
    """By a study of a backbone of 12 blocks, which searches one method."""

    def check(self, *starts: Start, depth: int | None = 12) -> None:
        check_start(starts, spec(), 12, lambda name: depth)

    def test_another_backbone_of_this_depth_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> None:
        self.check(Start("study:hats", "demo", (SCHEDULE,)), Start("start[1]", None, (SCHEDULE,)))
        assert caplog.text == ""
        self.check(Start("study:hats", "vit_tiny_patch16_224", (SCHEDULE,)))
        assert "study:hats was found for vit_tiny_patch16_224: its shares of tokens carry over to demo" in caplog.text

    def test_another_depth_is_refused(self) -> None:
        with pytest.raises(InputError, match="must be of a backbone with the 12 blocks of demo, got vit_large, 24"):
            self.check(Start("best.yaml", "vit_large", (SCHEDULE,)), depth=24)

    def test_what_the_space_cannot_express_is_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        start = Start("study:hats", "demo", (SCHEDULE, OTHER))
        self.check(start)
        assert "study:hats: 1 of 2 schedules are left out" in caplog.text
        assert start_schedules([start], spec().space, 12) == [("study:hats", SCHEDULE)]
        with pytest.raises(InputError, match=r"start: best\.yaml: its schedule must be one that the space can express"):
            self.check(Start("best.yaml", "demo", (OTHER,)))

    def test_the_last_block_is_computed_as_the_study_does(self) -> None:
        start = Start("best.yaml", "demo", (Schedule(SCHEDULE.stages, "zero-tprune", exact_savings=False),))
        self.check(start)
        assert start_schedules([start], spec().space, 12) == [("best.yaml", SCHEDULE)]
