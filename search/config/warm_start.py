"""Schedules that a study is told to begin with: those of exported files, of other studies' fronts, or written out.

They are read once, when the study is created, and kept with it: workers on other machines need neither file nor study.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.config import read_config
from pruning.errors import PruningError
from pruning.schedule import Schedule
from search.attribute_keys import START
from search.config.search_sections import SpaceSpec
from search.config.space import OutsideSpaceError, to_params
from search.config.spec import STUDY_PREFIX, StudyRecord, StudySpec
from search.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What one entry of `start` stands for. source: the entry, as messages name it. backbone: by which it was found,
    None if that is not known."""

    source: str
    backbone: str | None
    schedules: tuple[Schedule, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the study's provenance."""
        schedules = [schedule.to_dict() for schedule in self.schedules]
        return {"from": self.source, "backbone": self.backbone, "schedules": schedules}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Start:
        """Inverse of `to_dict`."""
        return cls(data["from"], data["backbone"], tuple(map(Schedule.from_dict, data["schedules"])))


def provenance_of(starts: Sequence[Start]) -> dict[str, Any]:
    """What a study keeps of them."""
    return {START: [start.to_dict() for start in starts]} if starts else {}


def starts_of(record: StudyRecord) -> list[Start]:
    """Inverse of `provenance_of`."""
    return [Start.from_dict(data) for data in record.provenance.get(START, ())]


FrontOf = Callable[[str], tuple[str, Sequence[Schedule]]]  # by a study's name: its backbone, the schedules of its front


def read_start(spec: StudySpec, front_of: FrontOf, allow_files: bool = True) -> list[Start]:
    """What the study's `start` names, in order. Raises InputError for what cannot be read, by the entry's place.

    front_of: raises InputError for a study without a front. allow_files: False for a study that came over the network.
    """
    starts = []
    for number, entry in enumerate(spec.start):
        place = f"{START}[{number}]"
        try:
            if not isinstance(entry, str):
                starts.append(Start(place, None, (Schedule.from_dict(entry),)))
            elif entry.startswith(STUDY_PREFIX):
                backbone, schedules = front_of(entry.removeprefix(STUDY_PREFIX))
                starts.append(Start(entry, backbone, tuple(schedule for schedule in schedules if schedule.stages)))
            elif allow_files:
                config = read_config(Path(entry))
                starts.append(Start(entry, str(config.backbone["name"]), (config.schedule,)))
            else:
                rule = f"must be {STUDY_PREFIX}NAME or a schedule in a study that is posted"
                raise InputError(place, rule, repr(entry), "write the file's schedule there; ztp launch --server does")
        except (InputError, PruningError) as error:
            if isinstance(error, InputError) and error.place == place:
                raise error.within(spec.name) from None
            raise InputError(place, str(error), source=spec.name) from None
    return starts


def without_files(spec: StudySpec) -> StudySpec:
    """The study with its start's files replaced by the schedules that they hold. Raises InputError."""
    entries: list[Any] = []
    for entry in spec.start:
        if isinstance(entry, str) and not entry.startswith(STUDY_PREFIX):
            (read,) = read_start(spec.model_copy(update={START: (entry,)}), _no_front)
            _warn_of_backbone(read, spec)
            entries += [schedule.to_dict() for schedule in read.schedules]
        else:
            entries.append(entry)
    return spec.model_copy(update={START: tuple(entries)}) if spec.start else spec


def _no_front(name: str) -> tuple[str, Sequence[Schedule]]:
    raise AssertionError(f"no study is looked up, {name} was")


def check_start(starts: Sequence[Start], spec: StudySpec, depth: int, depth_of: Callable[[str], int | None]) -> None:
    """Raise InputError for an entry of a backbone of another depth, or of which the study can express no schedule; warn
    of other backbones, and of schedules that are left out.

    depth_of: by a backbone's name; None if that is not known.
    """
    for start in starts:
        if start.backbone not in (None, spec.backbone.name):
            other = depth_of(str(start.backbone))
            if other not in (None, depth):
                rule = f"must be of a backbone with the {depth} blocks of {spec.backbone.name}"
                raise InputError(f"{START}: {start.source}", rule, f"{start.backbone}, {other}", source=spec.name)
            _warn_of_backbone(start, spec)
        lost: list[OutsideSpaceError] = []
        for schedule in start.schedules:
            try:
                to_params(in_space(schedule, spec.space), spec.space, depth)
            except OutsideSpaceError as error:
                lost.append(error)
        if lost and len(lost) == len(start.schedules):
            rule = f"its schedule {lost[0].rule}" if len(lost) == 1 else f"each of its {len(lost)} {lost[0].rule}"
            raise InputError(f"{START}: {start.source}", rule, remedy="widen the space", source=spec.name)
        if lost:
            log.warning(
                "%s: start: %s: %d of %d schedules are left out, for the space cannot express them",
                *(spec.name, start.source, len(lost), len(start.schedules)),
            )


def _warn_of_backbone(start: Start, spec: StudySpec) -> None:
    if start.backbone not in (None, spec.backbone.name):
        log.warning(
            "%s: start: %s was found for %s: its shares of tokens carry over to %s, its numbers do not",
            *(spec.name, start.source, start.backbone, spec.backbone.name),
        )


def in_space(schedule: Schedule, space: SpaceSpec) -> Schedule:
    """The schedule computing its last block as the study does, which leaves its answers as they are."""
    return Schedule(schedule.stages, schedule.method, schedule.options, space.exact_savings)


def start_schedules(starts: Sequence[Start], space: SpaceSpec, depth: int) -> list[tuple[str, Schedule]]:
    """Those that the study can express, each with where it comes from."""
    schedules = []
    for start in starts:
        for schedule in start.schedules:
            with suppress(OutsideSpaceError):
                own = in_space(schedule, space)
                to_params(own, space, depth)
                schedules.append((start.source, own))
    return schedules
