"""Every file, folder and module that README.md, CONTRIBUTING.md and docs/ name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TOP = ("pruning", "search", "tests", "docker", "studies")
PLACEHOLDER = re.compile(r"NNNN|NAME")


def named(page: str) -> set[str]:
    """Paths and modules in code spans of a page, those that its commands are run on included."""
    found = set()
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / page).read_text()):
        for word in span.split():
            is_path = re.fullmatch(r"[\w/.]+", word) and word.partition("/")[0] in TOP and "/" in word
            is_module = re.fullmatch(r"(?:tests|search|pruning)(?:\.\w+)+", word)
            is_file = re.fullmatch(r"\w+\.(?:md|toml)", word)
            if (is_path or is_module or is_file) and not PLACEHOLDER.search(word):
                found.add(word)
    return found


def is_there(name: str) -> bool:
    """A module may be named down to what it holds: `pruning.load`."""
    if "/" in name or (ROOT / name).exists():
        return (ROOT / name).exists()
    parts = name.split(".")
    files = ["/".join(parts), "/".join(parts) + ".py", "/".join(parts[:-1]) + ".py"]
    holder = ROOT / "/".join(parts[:-1]) / "__init__.py"
    held = holder.exists() and re.search(rf"\b{parts[-1]}\b", holder.read_text())
    return bool(held) or any((ROOT / file).exists() for file in files)


@pytest.mark.parametrize(
    ("page", "least"), [("README.md", 1), ("CONTRIBUTING.md", 10), *((f"docs/{p.name}", 0) for p in DOCS)]
)
def test_what_a_page_names_is_there(page: str, least: int) -> None:
    names = named(page)
    assert len(names) >= least
    assert sorted(name for name in names if not is_there(name)) == []


@pytest.mark.parametrize("name", ["pruning/families.py", "tests/evaluation/nothing/", "tests.benchmarks.nothing"])
def test_what_is_not_there_is_noticed(name: str) -> None:
    assert not is_there(name)
