"""What Optuna Dashboard shows of a front: notes in Markdown and a plot, as the study attributes that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.front_notes import front_notes
from search.reporting.plots import canvas, front_plot
from search.storage.store import Store
from search.types import Evaluation, Front, Measurement, Progress

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

PIECE = 2045  # characters of one attribute; Optuna's column holds 2048
STUDY_NOTE = "dashboard:note_"
PLOT = "dashboard:plot_data:front:"
GAP = "\u2003"  # an em space on either side of a cell: the dashboard's tables have no padding, and trim common spaces
PICTURE_NAME, PATCHES_NAME = "front.png", "patches.png"
TRIAL_PICTURE = "dashboard:artifacts:"  # of a trial, among the attributes of its study


def words(measurement: Measurement) -> dict[str, str]:
    """A measurement as a trial's attributes, each short enough for a line."""
    accuracy = measurement.accuracy
    seen = f"{accuracy.images:,} images{'' if measurement.complete else ', then stopped'}"
    return {
        formatting.KIND_WORDS[accuracy.kind]: f"{formatting.percent(accuracy, True)} %, {seen}",
        "speed-up": formatting.speedup(measurement.throughput),
        "images/s": formatting.rounded(measurement.throughput.images_per_s),
        "GFLOPs": formatting.gflops(measurement),
        "schedule": formatting.stages(measurement.schedule, named=True),
    }


def state_line(study: StudyRecord, progress: Progress) -> str:
    """`**running**, 12 of 40 trials`, with the note of a study that was stopped."""
    note = f": {formatting.printable(progress.note)}" if progress.note else ""
    return f"**{study.state}**{note}, {progress.done} of {formatting.count(progress.total, 'trial')}"


def study_note(study: StudyRecord, front: Front, picture: str | None = None, progress: Progress | None = None) -> str:
    """The front as a Markdown table. picture: the path under which the dashboard serves the plot. progress: how far the
    study is, and which trials are measured now."""
    lines = [f"## {study.name}", ""]
    if picture:
        lines += [f"![front of {study.name}]({picture})", ""]
    lines += [
        f"{formatting.front_line(front).capitalize()}.",
        *(["", f"{state_line(study, progress)}."] if progress else []),
        *(["", f"Running: {formatting.trial_numbers(progress.running)}."] if progress and progress.running else []),
        "",
        _line(formatting.FRONT_HEADINGS),
        "|---:|---:|---:|---:|---:|---:|:---|",
        *(_row(front, point) for point in front.points),
        "",
        *(f"- {line}" for line in front_notes(study, front)),
        "",
        f"Export one: `ztp export {study.name} --trial N -o best.yaml`",
    ]
    return "\n".join(lines) + "\n"


def _row(front: Front, point: Evaluation) -> str:
    trial, *cells = formatting.front_cells(front, point, named=True)
    return _line([trial.replace(formatting.BEHIND, "\\" + formatting.BEHIND), *cells])  # a bare * may open an emphasis


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f"{GAP}{cell}{GAP}" for cell in cells) + "|"


def trial_note(study: StudyRecord, point: Evaluation) -> str:
    """The schedule of one point, to read and to copy."""
    return (
        f"On the front of **{study.name}**: {formatting.point(point)}\n\n"
        f"```yaml\n{point.search.schedule.to_yaml()}```\n\n"
        f"Export it: `ztp export {study.name} --trial {point.trial} -o best.yaml`\n"
    )


def attributes(
    study: StudyRecord,
    front: Front,
    evaluations: Iterable[Evaluation],
    trial_ids: Mapping[int, int],
    picture: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Every study attribute by which the dashboard shows the front.

    trial_ids: storage id of each trial number. evaluations: all that the plot shows faintly. progress: as of now; None
    for attributes that stay.
    """
    figure = canvas.plotly_figure(front_plot.picture(study, front, evaluations)).to_json()
    found = note(front.version, study_note(study, front, picture, progress))
    found |= {f"{PLOT}{i}": piece for i, piece in enumerate(_pieces(figure))}
    for point in front.points:
        if point.trial in trial_ids:
            found |= note(front.version, trial_note(study, point), f"dashboard:{trial_ids[point.trial]}:note_")
    return found


def note(version: int, text: str, prefix: str = STUDY_NOTE) -> dict[str, Any]:
    """A note, of the study unless the prefix is another, as the attributes that the dashboard reads."""
    return {f"{prefix}ver": version, **{f"{prefix}str:{i}": piece for i, piece in enumerate(_pieces(text))}}


def _pieces(text: str) -> Iterator[str]:
    return (text[i : i + PIECE] for i in range(0, len(text), PIECE))


def prefixes(attributes: Iterable[str]) -> tuple[str, ...]:
    """What the given notes and plots replace: an older, longer one must not shine through. Pictures replace none."""
    ours = [name for name in attributes if name.startswith("dashboard:") and not name.startswith(TRIAL_PICTURE)]
    return tuple({PLOT if name.startswith(PLOT) else name[: name.index("note_") + len("note_")] for name in ours})


def artifact(artifact_id: str, trial_id: int | None = None) -> dict[str, str]:
    """The attribute of a study that announces an image: the front's plot, or a sheet of patches of the trial with this
    storage id."""
    prefix, name = ("artifacts:", PICTURE_NAME) if trial_id is None else (f"{TRIAL_PICTURE}{trial_id}:", PATCHES_NAME)
    described = {"artifact_id": artifact_id, "filename": name, "mimetype": "image/png", "encoding": None}
    return {prefix + artifact_id: json.dumps(described)}


def mirrored_ids(storage: BaseStorage, study_id: int, front: Front) -> dict[int, int]:
    """Optuna's id, by number, of each trial of the front that is mirrored already."""
    found = {}
    for point in front.points:
        with suppress(KeyError):
            found[point.trial] = storage.get_trial_id_from_study_id_trial_number(study_id, point.trial)
    return found


def publish(store: Store, study: StudyRecord) -> None:
    """Write the notes and the plot into the database, for those who open it with a plain `optuna-dashboard`.

    Only what changed is written: each attribute is a commit of its own.
    """
    front = store.front(study.id)
    if front is None:
        return
    storage = store.optuna_storage()
    study_id = storage.get_study_id_from_name(study.name)
    trial_ids = mirrored_ids(storage, study_id, front)
    wanted = attributes(study, front, store.evaluations(study.id), trial_ids)
    stored = storage.get_study_system_attrs(study_id)
    left_over = [key for key in stored if key not in wanted and key.startswith(prefixes(wanted))]
    for key, value in {**dict.fromkeys(left_over, ""), **wanted}.items():
        if stored.get(key) != value:
            storage.set_study_system_attr(study_id, key, value)
