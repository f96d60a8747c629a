"""What one study found out and another takes over: a latency profile where it holds, strata of just these images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.backbones import Backbone
from pruning.schedule import UNTOUCHED
from search.evaluation import calibrator, device
from search.evaluation.calibration import Calibration
from search.evaluation.calibrator import Calibrator
from search.evaluation.device import choose_device, machine_key
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.profile_cases import StageKind
from search.evaluation.schedule_evaluator import ScheduleEvaluator

Maker = Callable[..., Any]
CPU = choose_device("cpu")


def profile_down_to(fewest: int, *methods: str) -> LatencyProfile:
    ones = (1.0, 2.0)
    stages = {method: StageCost(ones, ones, ones) for method in methods}
    return LatencyProfile(4, 12, (fewest, 196), ones, 3.0, stages, ones, ones, seeds=0.1)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was found out by running something: "profile" and "strata"."""
    found: list[str] = []

    def measure_profile(model: Any, images: Any, kinds: list[StageKind], fewest: int) -> LatencyProfile:
        found.append("profile")
        return profile_down_to(fewest, *(kind.name for kind in kinds))

    run_dense = Calibrator._run_dense
    monkeypatch.setattr(calibrator, "measure_profile", measure_profile)
    monkeypatch.setattr(Calibrator, "_run_dense", lambda self: found.append("strata") or run_dense(self))
    return found


@pytest.fixture
def find(make_evaluator: Maker, backbone: Backbone, small_spec: Maker, taken: list[str]) -> Maker:
    """All facts of a study with some sections changed, and the list of what it had to find out itself."""

    def made(others: dict[str, Calibration] | None = None, **sections: Any) -> tuple[Calibration, list[str]]:
        space = {"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], **sections.pop("space", {})}
        evaluator: ScheduleEvaluator = make_evaluator(backbone, small_spec(space=space, **sections))
        taken.clear()
        evaluator.learn(others or {})
        evaluator.calibrate()
        facts = evaluator.stratify()
        assert evaluator.order is not None
        return facts, list(taken)

    return made


def test_nothing_is_found_out_twice(find: Maker) -> None:
    first, did = find()
    assert did == ["profile", "strata"]
    assert first.profile_from == ""
    second, did = find({"first": first})
    assert did == []
    assert second == replace(first, profile_from="first")
    third, did = find({"second": second})
    assert (third.profile_from, did) == ("first", [])  # who took it, not who told


@pytest.mark.parametrize(
    ("sections", "again"),
    [
        ({"runtime": {"batch_size": 5}}, ["profile"]),
        ({"runtime": {"dtype": "bfloat16"}}, ["profile", "strata"]),
        ({"space": {"methods": ["random"]}}, ["profile"]),  # which the first was not taken for
        ({"space": {"keep": [0.4, 1.0]}}, ["profile"]),  # fewer tokens than the first knows
        ({"space": {"keep": [0.7, 1.0]}}, []),
        ({"space": {"exact_savings": False}}, ["profile"]),  # which the first was taken with
        ({"objectives": {"accuracy": "agreement"}}, ["strata"]),
        ({"racing": {"strata": 3}}, ["strata"]),
        ({"data": {"seed": 1}}, ["strata"]),
        ({"data": {"search_images": 12}}, ["strata"]),
        ({"sampler": {"seed": 5}, "budget": {"trials": 7}}, []),
    ],
)
def test_only_what_holds_is_taken_over(find: Maker, sections: dict[str, Any], again: list[str]) -> None:
    first, _ = find()
    facts, did = find({"first": first}, **sections)
    assert did == again
    assert facts.profile_from == ("" if "profile" in again else "first")


def test_the_latest_profile_decides(find: Maker) -> None:
    good, _ = find()
    wrong = replace(good, profile=None)  # found to be wrong by its own study
    assert find({"latest": wrong, "before": good})[1] == ["profile"]
    assert find({"latest": good, "before": wrong})[1] == []
    assert find({"latest": replace(wrong, profile_key=""), "before": good})[1] == []  # it has said nothing


def test_studies_from_before_there_were_keys_tell_nothing(find: Maker) -> None:
    first, _ = find()
    assert find({"old": replace(first, profile_key="", strata_key="")})[1] == ["profile", "strata"]


def test_measured_throughput_has_no_profile_to_tell(
    make_evaluator: Maker, backbone: Backbone, small_spec: Maker
) -> None:
    facts = make_evaluator(backbone, small_spec(objectives={"throughput": "measured"})).calibrate()
    assert (facts.profile, facts.profile_key) == (None, "")


def test_speeds_are_the_first_studys(find: Maker) -> None:
    first, _ = find()
    second, _ = find({"first": first})
    assert second.profile is not None
    assert second.dense_images_per_s == LatencyProfile.from_dict(second.profile).predict(UNTOUCHED).images_per_s


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: 1
model name\t: AMD EPYC
stepping\t: 2
cpu MHz\t\t: {mhz}
cache size\t: 512 KB
flags\t\t: fpu avx2{flags}

processor\t: 1
model name\t: another
"""


def test_processors_of_one_name_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")

    def key(family: int = 23, mhz: float = 2450.0, flags: str = "") -> str:
        device.CPUINFO.write_text(CPUINFO.format(family=family, mhz=mhz, flags=flags))
        return machine_key(CPU)

    assert key() == key(mhz=3100.5)
    assert len({key(), key(family=25), key(flags=" avx512_bf16")}) == 3
    assert device.bfloat16_is_fast(CPU)
    key()
    assert not device.bfloat16_is_fast(CPU)
    assert device.describe_device(CPU).startswith("cpu: AMD EPYC, ")


def test_without_a_list_of_processors_no_machine_speaks_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS. Two machines are not to be had here: what they are called is made up."""
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device.platform, "processor", lambda: "arm")

    def key(machine: str) -> str:
        monkeypatch.setattr(device.platform, "node", lambda: machine)
        return machine_key(CPU)

    assert key("old") == key("old") != key("new")
    assert "; arm; new; " in key("new")
