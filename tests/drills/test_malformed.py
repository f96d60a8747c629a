"""300 malformed study files from a seeded generator: exit 2 each, one message, no traceback, nothing written."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Ztp = Callable[..., Any]

FILES = 300
SOUND: dict[str, Any] = {
    "name": "mine",
    "backbone": {"name": "demo"},
    "data": {"source": "demo", "search_images": 20, "confirm_images": 20, "seed": 0},
    "objectives": {"accuracy": "top1", "throughput": "profiled"},
    "budget": {"trials": 5, "time": "30m", "max_gflops": 3.0, "max_accuracy_drop": 0.1},
    "space": {"methods": ["zero-tprune"], "max_stages": 3, "blocks": [0, 10], "keep": [0.5, 1.0]},
    "sampler": {"name": "random", "seed": 0},
    "racing": {"alpha": 0.05, "strata": 10},
    "runtime": {"device": "cpu", "batch_size": 8, "workers": 1},
}
FIELDS = [(section, key) for section, fields in SOUND.items() if isinstance(fields, dict) for key in fields]
WRONG: list[Any] = [  # a value of each kind that no field takes
    {"a": 1},
    [[1, 2], [3]],
    "\u2603 snowman",
    -1e30,
    [None, None],
    {"keep": {"keep": {}}},
    "0x10",
    [1, 2, 3, 4, 5],
]


def wrong_value(rng: random.Random, document: dict[str, Any]) -> str:
    section, key = rng.choice(FIELDS)
    document[section] = {**document[section], key: rng.choice(WRONG)}
    return yaml.safe_dump(document)


def unknown_key(rng: random.Random, document: dict[str, Any]) -> str:
    section, key = rng.choice(FIELDS)
    place = rng.choice([document, document[section]])
    place[key[::-1] + rng.choice("xyz")] = rng.choice([1, "a", None, []])
    return yaml.safe_dump(document)


def wrong_section(rng: random.Random, document: dict[str, Any]) -> str:
    section = rng.choice([name for name, fields in SOUND.items() if isinstance(fields, dict)])
    document[section] = rng.choice([7, "text", [1, 2], True, 0.5])
    return yaml.safe_dump(document)


def missing(rng: random.Random, document: dict[str, Any]) -> str:
    del document[rng.choice(["name", "backbone"])]
    return yaml.safe_dump(document)


def cut_off(rng: random.Random, document: dict[str, Any]) -> str:
    text = yaml.safe_dump(document, default_flow_style=True)
    return text[: rng.randrange(1, len(text) - 3)]


def garbled(rng: random.Random, document: dict[str, Any]) -> str:
    """Characters that end nothing, in places that need an end."""
    text = yaml.safe_dump(document)
    at = rng.randrange(len(text))
    return (
        text[:at]
        + rng.choice(["\t{", "[", "\x00", '"', "'", ": :", "!!python/object:os.system", "&a *b", "%"])
        + "\n- ]"
    )


def doubled(rng: random.Random, document: dict[str, Any]) -> str:
    section = rng.choice(list(SOUND))
    return yaml.safe_dump(document) + yaml.safe_dump({section: SOUND[section]})


def no_mapping(rng: random.Random, document: dict[str, Any]) -> str:
    return rng.choice(["", "7", "- a\n- b", "true", "null", "just words", "--- a\n--- b", "[]", "~", "2026-11-22"])


def bomb(rng: random.Random, document: dict[str, Any]) -> str:
    """Aliases that unfold to a billion entries."""
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, rng.randrange(4, 10)))
    return f"a0: &a0 [lol]\n{levels}\nname: mine\n"


def monster(rng: random.Random, document: dict[str, Any]) -> str:
    """Numbers and texts far beyond anything."""
    section, key = rng.choice(FIELDS)
    document[section] = {**document[section], key: rng.choice([10**4000, "x" * 100_000, -(10**300), float("nan")])}
    return yaml.safe_dump(document) if rng.random() < 0.5 else "[" * rng.randrange(500, 3000)


MAKERS = [
    wrong_value,
    unknown_key,
    wrong_section,
    missing,
    cut_off,
    garbled,
    doubled,
    no_mapping,
    bomb,
    monster,
]


@pytest.mark.fault
def test_300_malformed_files(ztp: Ztp, tmp_path: Path, report: Callable[..., None]) -> None:
    refused, odd = 0, []
    for number in range(FILES):
        rng, maker = random.Random(number), MAKERS[number % len(MAKERS)]
        document = {name: dict(part) if isinstance(part, dict) else part for name, part in SOUND.items()}
        text = maker(rng, document)
        path = Path("study.yaml")
        path.write_text(text, encoding="utf-8")
        ran = ztp("launch", "study.yaml")
        lines = ran.err.splitlines()
        if ran.code == 2 and ran.out == "" and len(lines) == 1 and lines[0].startswith("ztp: "):
            refused += 1
        else:
            odd.append((number, maker.__name__, ran.code, ran.err[-300:]))
    assert sorted(path.name for path in Path().iterdir()) == ["study.yaml"]
    report(drill="malformed study files", faults=FILES, tried=FILES, refused=refused)
    assert odd == []


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_generator_repeats_itself(maker: Callable[..., str]) -> None:
    """A failure above can be looked at by its number alone."""
    made = {maker(random.Random(3), {k: dict(v) if isinstance(v, dict) else v for k, v in SOUND.items()}) for _ in "ab"}
    assert len(made) == 1
