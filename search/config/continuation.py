"""What a later launch may change of a study: how much is spent and by what means, never what decides a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from search.config.spec import StudySpec, make_spec
from search.errors import SpecConflictError
from search.types import Progress

WITHOUT_EFFECT = frozenset(  # may differ on resume: they say how many and by what means, not what
    {
        "budget.patience",
        "data.roots",
        "notify.webhook",
        "runtime.workers",
        "runtime.prefix_cache_gib",
        "runtime.engine",
        "runtime.trial_timeout",
    }
)
GROWING = ("budget.trials", "budget.time")  # a larger one continues a study, a smaller one leaves the stored one
LIMITS = ("budget.max_gflops", "budget.min_speedup", "budget.max_accuracy_drop", "budget.max_latency_ms")


def continued_spec(stored: StudySpec, wanted: StudySpec) -> StudySpec:
    """The stored spec, with what `wanted` says of how many workers and by what means, and the larger budget of both.

    A budget never shrinks: of launches at the same time none takes away what another asked for.
    """
    document, given = stored.to_dict(), dict(_flatten(wanted.given()))
    names = [name for name in GROWING if _grows(stored, wanted, name)]
    for name in [*WITHOUT_EFFECT, *names]:
        section, _, key = name.partition(".")
        if name in given:
            document.setdefault(section, {})[key] = given[name]
    return make_spec(document, stored.name)


def kept_budget(stored: StudySpec, wanted: StudySpec, ended: str) -> list[str]:
    """What to tell who asks for less than the stored budget. ended: see `what_continues`; "" for a study under way."""
    earlier = "" if ended else "; ztp stop ends it earlier"
    return [
        f"study {stored.name} keeps {line}: a budget may grow alone{earlier}" for line in smaller_budget(stored, wanted)
    ]


def smaller_budget(stored: StudySpec, wanted: StudySpec) -> list[str]:
    """Where `wanted` asks for less than the stored budget, which then stays: each as "budget.trials: 200, not 100"."""
    before, given = dict(_flatten(stored.to_dict())), dict(_flatten(wanted.given()))
    return [
        f"{name}: {_show(before, name)}, not {_show(given, name)}"
        for name in GROWING
        if name in given and before[name] != given[name] and not _grows(stored, wanted, name)
    ]


def what_continues(progress: Progress) -> str:
    """Of a study that is done, what of its budget ended the search, and the flags by which a launch continues it.

    "" if nothing of it is used up.
    """
    used = [
        (progress.done >= progress.total, f"all {progress.total} trials are done", f"--trials above {progress.total}"),
        (progress.is_late, "its time is used up", "a longer --time"),
        (
            progress.is_stagnant,
            f"its front has not grown for {progress.stagnant} trials",
            f"--patience above {progress.stagnant}",
        ),
    ]
    reasons = [why for applies, why, _ in used if applies]
    flags = [flag for applies, _, flag in used if applies]
    return f"{' and '.join(reasons)}; ztp launch with {' and '.join(flags)} continues it" if reasons else ""


def _grows(stored: StudySpec, wanted: StudySpec, name: str) -> bool:
    """No limit is the largest."""
    before, after = (getattr(spec.budget, name.partition(".")[2]) for spec in (stored, wanted))
    return before is not None and (after is None or after > before)


def differences(stored: StudySpec, wanted: StudySpec) -> list[str]:
    """Where a spec says otherwise than the stored one, but for what may change (see `continued_spec`).

    Each as "budget.max_gflops: 3.0 -> 2.0". What it leaves out it does not contradict: defaults change, studies do not.
    """
    before, after = dict(_flatten(stored.to_dict())), dict(_flatten(wanted.to_dict()))
    given = set(_fields(wanted.given()))
    names = [*before, *(name for name in after if name not in before)]
    names = [name for name in names if ".".join(name.split(".")[:2]) in given]
    return [
        f"{name}: {_show(before, name)} -> {_show(after, name)}"
        for name in names
        if name not in WITHOUT_EFFECT and name not in GROWING and before.get(name) != after.get(name)
    ]


def check_same(stored: StudySpec, wanted: StudySpec, place: str) -> None:
    """Raise SpecConflictError, with the differences, unless `wanted` continues the stored study.

    place: "at URL", the store as error messages name it.
    """
    changed = differences(stored, wanted)
    if not changed:
        return
    rule = f"study {stored.name} {place} exists with another spec ({'; '.join(changed)})"
    if any(line.startswith(LIMITS) for line in changed):
        rule += ", and its limits decided which schedules were measured and which may stand on its front"
    remedy = f"restore the spec to continue it, or choose another name; start: [study:{stored.name}] takes its front"
    raise SpecConflictError("", rule, remedy=remedy, differences=changed)


def _show(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "null" if value is None else str(value)


def _fields(data: Mapping[str, Any]) -> Iterator[str]:
    """The names of a study's fields, "budget.trials" say; of one that is a mapping itself, nothing of what is in it."""
    for section, value in data.items():
        yield from (f"{section}.{key}" for key in value) if isinstance(value, Mapping) else (section,)


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
