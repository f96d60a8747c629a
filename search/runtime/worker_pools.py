"""How workers are started: one row in ENGINES per way.

An engine gets the study's name, the store's URL and a count, keeps that many workers going until they have ended,
starting those again that die, and calls `watch` about once a second meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from search.errors import InputError
from search.runtime.local_workers import Watch, run_local
from search.runtime.ray_engine import check_ray, run_ray
from search.storage.urls import parse_url


@dataclass(frozen=True)
class Engine:
    """run: (study, URL, workers, watch). check: raises InputError, before anything is done, if it cannot run here."""

    run: Callable[[str, str, int, Watch], None]
    check: Callable[[str], object]


ENGINES: dict[str, Engine] = {"local": Engine(run_local, parse_url), "ray": Engine(run_ray, check_ray)}


def check_engine(name: str, url: str) -> None:
    """Raise InputError if there is no such engine, or if it cannot run here."""
    if name not in ENGINES:
        raise InputError("runtime.engine", f"must be one of {', '.join(ENGINES)}", repr(name))
    ENGINES[name].check(url)
