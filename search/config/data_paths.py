"""Paths of image collections as studies name them: a folder, a file, or many files by numbers in braces."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from search.errors import InputError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")

PARQUET = "parquet files"
FORMS = {  # of files: what they are, and how one tells by the end of the name
    "tar shards": (".tar",),
    PARQUET: (".parquet",),
    "IDX files of images": ("idx3-ubyte", "idx3.ubyte", "idx3-ubyte.gz", "idx3.ubyte.gz"),
    "a table of paths and labels": (".csv", ".tsv", ".txt"),
}
FOLDER = "a folder of images"
MAX_FILES = 100_000  # of one collection; beyond it a range is a typo


def form_of(path: Path) -> str:
    """What a file is, of FORMS; a folder is FOLDER, whatever lies in it. Raises InputError."""
    if path.is_dir():
        return FOLDER
    for form, endings in FORMS.items():
        if path.name.lower().endswith(endings):
            return form
    known = ", ".join(f"{form} ({', '.join(endings[:2])})" for form, endings in FORMS.items())
    raise InputError("data.path", f"must be {FOLDER}, {known}", f"the file {path}", "check the path")


def expand(path: str) -> list[Path]:
    """The files of `shard-{000..004}.tar` or `{a,b}.tar` in order; a path without braces alone; a path that is there
    is never taken for a pattern. Raises InputError if one is not there."""
    paths = expand_names(path)
    if os.path.exists(path):  # unlike pathlib's, without an error where a name is too long
        return paths
    if not BRACES.search(path):
        raise InputError("data.path", "must be an existing folder or file", repr(path), "check the path")
    missing = [file for file in paths if not os.path.isfile(file)]
    if missing:
        got = f"{path!r}, of which {len(missing)} of {len(paths)} are not there; first: {missing[0]}"
        raise InputError("data.path", "must name existing files", got)
    return paths


def expand_names(path: str) -> list[Path]:
    """As `expand`, whether the files are there or not. Raises InputError for braces that mean nothing."""
    if os.path.exists(path) or not BRACES.search(path):
        return [Path(path)]
    pieces = BRACES.split(path)  # text, braces' content, text, ...
    choices = [_choices(piece, path) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    _check_number(sum(1 for _ in itertools.islice(itertools.product(*choices), MAX_FILES + 1)), path)
    return [Path("".join(parts)) for parts in itertools.product(*choices)]


def _choices(content: str, path: str) -> list[str]:
    """ "000..004" or "a,b" as a list. Raises InputError."""
    found = RANGE.fullmatch(content)
    if found is None:
        if "," not in content:
            rule = "must have {FIRST..LAST} or {A,B} in braces"
            raise InputError("data.path", rule, f"{{{content}}} in {path!r}", "fix it")
        return content.split(",")
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise InputError("data.path", "must count upwards in braces", f"{{{content}}} in {path!r}", "swap the numbers")
    _check_number(last - first + 1, path)
    return [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]


def _check_number(files: int, path: str) -> None:
    if files > MAX_FILES:
        raise InputError("data.path", f"must name at most {MAX_FILES} files", f"more in {path!r}", "check the numbers")
