"""Energy of passes by a machine's counters: a folder as Linux shows them, which the passes move."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.evaluation.deployed import measure_latency
from search.evaluation.energy import EnergyMeter

RANGE = 1_000_000  # microjoules


@pytest.fixture
def make_zone(tmp_path: Path) -> Callable[[str, str, int], Path]:
    def make(zone: str, name: str, energy: int) -> Path:
        folder = tmp_path / zone
        folder.mkdir()
        for file, content in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", RANGE)):
            (folder / file).write_text(f"{content}\n")
        return folder / "energy_uj"

    return make


def test_packages_are_summed_and_what_they_hold_is_not(
    tmp_path: Path, make_zone: Callable[[str, str, int], Path]
) -> None:
    counters = [make_zone(f"intel-rapl:{i}", f"package-{i}", 500) for i in range(2)]
    inside = [make_zone("intel-rapl:0:0", "core", 0), make_zone("intel-rapl:2", "psys", 0)]
    meter = EnergyMeter(tmp_path)
    for counter in (*counters, *inside):
        counter.write_text("250500")
    assert meter.joules() == pytest.approx(0.5)
    meter.restart()
    counters[0].write_text("500")  # begun again: RANGE - 250,000 more
    assert meter.joules() == pytest.approx(0.75)


def test_passes_take_what_the_counter_says(tmp_path: Path, make_zone: Callable[[str, str, int], Path]) -> None:
    counter = make_zone("intel-rapl:0", "package-0", 0)

    def run() -> None:
        time.sleep(0.02)  # few passes a block: the counter must not begin again twice in one
        counter.write_text(str((int(counter.read_text()) + 1000) % RANGE))

    found = measure_latency(run, 4, tmp_path)
    assert found.joules_per_image == pytest.approx(0.001 / 4)


def test_a_machine_without_counters_tells_nothing(tmp_path: Path, make_zone: Callable[[str, str, int], Path]) -> None:
    make_zone("intel-rapl:2", "psys", 0)
    make_zone("intel-rapl:0", "package-0", 0).unlink()
    assert not EnergyMeter(tmp_path).is_there
    assert measure_latency(lambda: time.sleep(0.01), 1, tmp_path / "none").joules_per_image is None
