"""What the Ray engine asks of a cluster for each worker. A stub describes the cluster: GPUs and nodes by the dozen are
not to be had in a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from search.runtime.ray_engine import _needs


@dataclass
class Cluster:
    """As `ray` answers: one dictionary of resources a node."""

    living: list[dict[str, float]]
    dead: list[dict[str, float]]

    def cluster_resources(self) -> dict[str, float]:
        names = {name for node in self.living for name in node}
        return {name: sum(node.get(name, 0) for node in self.living) for name in names}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": alive, "Resources": node} for alive in (True, False) for node in self._of(alive)]

    def _of(self, alive: bool) -> list[dict[str, float]]:
        return self.living if alive else self.dead


@pytest.mark.parametrize(
    ("living", "dead", "workers", "needs"),
    [
        # one worker a GPU, however many cores, and however few GPUs: the others wait
        ([{"CPU": 64, "GPU": 8}], [], 8, {"num_gpus": 1, "num_cpus": 1}),
        ([{"CPU": 64, "GPU": 2}], [], 16, {"num_gpus": 1, "num_cpus": 1}),
        ([{"CPU": 64}, {"CPU": 4, "GPU": 1}], [], 2, {"num_gpus": 1, "num_cpus": 1}),
        # an even share of all cores: 16 / 4
        ([{"CPU": 8}, {"CPU": 8}], [], 4, {"num_cpus": 4}),
        # 16 // 3
        ([{"CPU": 16}], [], 3, {"num_cpus": 5}),
        # 16 / 1 is more than any node has
        ([{"CPU": 8}, {"CPU": 8}], [], 1, {"num_cpus": 8}),
        # a dead node's 32 cores are nobody's: nor those of its GPU
        ([{"CPU": 4}, {"CPU": 4}], [{"CPU": 32, "GPU": 4}], 1, {"num_cpus": 4}),
        # more workers than cores: one each, and some wait
        ([{"CPU": 2}], [], 5, {"num_cpus": 1}),
        # a head without cores, whose nodes come later
        ([{"memory": 1e9}], [], 2, {"num_cpus": 1}),
    ],
)
def test_resources_of_one_worker(
    living: list[dict[str, float]], dead: list[dict[str, float]], workers: int, needs: dict[str, int]
) -> None:
    assert _needs(Cluster(living, dead), workers) == needs
