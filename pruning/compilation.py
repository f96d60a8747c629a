"""What `torch.compile` does with a model whose schedule changes: it compiles once for each, and that is said."""

from __future__ import annotations

import itertools
import warnings

import torch

_numbers = itertools.count()
_compiled: dict[int, set[str]] = {}  # by model, the keys of schedules that were compiled in this process


def next_number() -> int:
    """Of a model, which its compiled schedules are counted by."""
    return next(_numbers)


def note_compilation(model: int, key: str, words: str) -> None:
    """Called by a model's forward: warns where it is being compiled for another schedule than before.

    key, words: of the schedule.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        _note(model, key, words)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _note(model: int, key: str, words: str) -> bool:
    """Runs while the compiler traces, and never in what it compiles."""
    known = _compiled.setdefault(model, set())
    if known and key not in known:
        warnings.warn(
            f"torch.compile compiles this model anew for the schedule that was assigned to it, {words}: that takes "
            "seconds to minutes once; schedules compiled before run at once",
            stacklevel=1,
        )
    known.add(key)
    return True
