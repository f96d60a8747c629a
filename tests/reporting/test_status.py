"""Studies as a list and one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from search.config.spec import StudyRecord
from search.reporting import status
from search.types import Progress

Printed = Callable[..., str]
MakeProgress = Callable[..., Progress]


def test_list_has_a_line_per_study(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    rows = [(study, progress()), (replace(study, name="other", state="running"), progress(best=None))]
    lines = printed(status.study_list(rows)).splitlines()
    first = next(line for line in lines if line.lstrip().startswith("shirts"))
    for fact in ("done", "demo", "3/8", "2:05 min", "89.70 % at 1.12x", "2026-11-22 16:55"):
        assert fact in first
    second = next(line for line in lines if line.lstrip().startswith("other"))
    assert "running" in second
    assert " - " in second


def test_a_study_without_a_worker_says_what_to_do(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    running = replace(study, state="running")
    for abandoned_s, since in ((720.0, "12 min"), (3 * 3600.0, "3 h"), (72 * 3600.0, "3 days")):
        left = progress(abandoned_s=abandoned_s, best=None)
        lack = f"running, but no worker for {since}: launch it again"
        assert lack in printed(status.study_status(running, left))
        listed = printed(status.study_list([(running, left)]))
        assert [
            words in listed for words in ("running, but no worker for", since.split()[0], "launch it again")
        ] == 3 * [True]
    assert "no worker" not in printed(status.study_status(running, progress()))


def test_patience_is_told_of_a_study_that_has_it(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    assert "patience" not in printed(status.study_status(study, progress()))
    shown = printed(status.study_status(study, progress(patience=40, stagnant=12)))
    assert "12 of 40 trials without growth of the front beyond its noise" in shown


def test_the_list_says_why_a_study_is_done_without_a_front(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    note = "no schedule keeps the limits (budget.min_speedup 2 by 3); \x1b[2J"
    bare = progress(state="done", front_size=0, best=None, note=note)
    done = replace(study, state="done")
    told = printed(status.study_list([(done, bare)]))
    assert r"shirts: no schedule keeps the limits (budget.min_speedup 2 by 3); \x1b[2J" in told
    assert "no schedule" not in printed(status.study_list([(done, progress(note="time budget used up"))]))


def test_list_of_nothing_is_a_header(printed: Printed) -> None:
    assert printed(status.study_list([])).split()[0] == "study"


def test_status_shows_state_progress_spec_and_origin(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    text = printed(status.study_status(study, progress(note="time budget used up")))
    for fact in (
        "done (time budget used up)",
        "3 of 8 in 2:05 min",
        "2 points, 1 confirmed",
        "0.0498",
        "89.70 ±0.67 % at 1.12x",
        "weights: bundled",
        "methods: [zero-tprune]",
        "no fast bfloat16",
        "torch: 2.14.1",
    ):
        assert fact in text
    assert "skipped" not in text


def test_status_tells_how_labels_became_classes_and_what_images_pass_through(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    known = {"classes": "WordNet ids of imagenet-1k", "preprocessing": {"mean": [0.5], "crop_pct": 0.9}}
    text = printed(status.study_status(replace(study, provenance={**study.provenance, **known}), progress()))
    assert ["labels", *"WordNet ids of imagenet-1k".split()] in [line.split() for line in text.splitlines()]
    assert "mean: [0.5], crop_pct: 0.9" in text


def test_status_escapes_what_a_terminal_would_obey(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    """Names of files and reasons are somebody else's words."""
    known = {"skipped_images": ["a\x1b[2J.png", "b\u202egnp.jpg"], "classes": "of \x1b[31mlist.txt"}
    odd = replace(study, provenance={**study.provenance, **known})
    text = printed(status.study_status(odd, progress(note="lost \x1b]0;title\x07")))
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert r"lost \x1b]0;title\x07" in text
    assert r"a\x1b[2J.png, b\u202egnp.jpg" in text
    assert r"of \x1b[31mlist.txt" in text


def test_status_before_anything_is_known(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    new = replace(study, state="created", provenance={})
    lines = printed(status.study_status(new, progress(done=0, front_size=0, best=None))).splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("fastest within")] == ["-"]
    assert not any(line.startswith(("hardware", "versions")) for line in lines)


def test_status_leaves_out_what_the_spec_leaves_empty(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    spec = {**study.document, "space": {"methods": ["random"], "options": {}, "blocks": None}}
    shown = printed(status.study_status(replace(study, document=spec), progress()))
    assert "methods: [random]" in shown
    assert "options" not in shown
    assert "blocks" not in shown


def test_status_shows_the_preprocessing(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    known = {"preprocessing": {"mean": [0.485, 0.456], "crop_pct": 0.875, "crop_mode": "center"}}
    text = printed(status.study_status(replace(study, provenance=known), progress()))
    assert re.search(r"preprocessing +mean: \[0\.485, 0\.456\], crop_pct: 0\.875, crop_mode: center", text)


def test_status_names_skipped_images(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    broken = [f"shirt/{i}.png" for i in range(5)]
    text = printed(status.study_status(replace(study, provenance={"skipped_images": broken}), progress()))
    assert "5 corrupt images: shirt/0.png, shirt/1.png, shirt/2.png" in text
    one = printed(status.study_status(replace(study, provenance={"skipped_images": broken[:1]}), progress()))
    assert "1 corrupt image: shirt/0.png" in one


def test_status_says_in_words_what_was_found_out(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    known = {**study.provenance, "prediction_error": 0.0374, "profile_from": "spring"}
    text = printed(status.study_status(replace(study, provenance=known), progress()), 140)
    assert "number format           float32: this hardware has no fast bfloat16" in text
    assert "latency profile         that of study spring, whose finalists it predicted well" in text
    assert "prediction error        3.7%: median of the finalists' speed-ups, against measured" in text
    assert not [line for line in text.splitlines() if "_" in line.split("  ")[0]]  # a key that only programs know


@pytest.mark.parametrize("width", [60, 80])
def test_both_fit_narrow_terminals(printed: Printed, study: StudyRecord, progress: MakeProgress, width: int) -> None:
    for part in (status.study_list([(study, progress())]), status.study_status(study, progress())):
        assert max(map(len, printed(part, width).splitlines())) <= width


def test_status_counts_one_point_as_one(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    assert "1 point, 0 confirmed" in printed(status.study_status(study, progress(front_size=1, confirmed=0)))


def test_status_says_what_racing_saved(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    text = printed(status.study_status(study, progress(stopped=2, images=300, images_whole=400)))
    assert "stopped early           2 schedules; 75% of the images seen" in text
    assert "stopped early           none" in printed(status.study_status(study, progress(stopped=0)))


def test_status_counts_failed_trials_if_there_are_any(
    printed: Printed, study: StudyRecord, progress: MakeProgress
) -> None:
    assert "2 trials; the reasons are in ztp_attempt" in printed(status.study_status(study, progress(failed=2)))
    assert "ztp_attempt" not in printed(status.study_status(study, progress()))


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_keeps_name_state_and_trials_whole(
    printed: Printed, study: StudyRecord, progress: MakeProgress, width: int
) -> None:
    text = printed(status.study_list([(study, progress())]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for whole in ("shirts", "done", "3/8"):
        assert whole in text


def test_what_a_terminal_would_obey_is_shown(printed: Printed, study: StudyRecord, progress: MakeProgress) -> None:
    odd = replace(study, document={**study.document, "backbone": {"name": "vit\x1b[2J\u202e", "weights": "a\nb"}})
    for part in (status.study_list([(odd, progress())]), status.study_status(odd, progress())):
        text = printed(part, 200)
        assert "vit\\x1b[2J\\u202e" in text
        assert not any(letter in text for letter in "\x1b\u202e")
