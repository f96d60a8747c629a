"""timm's models as a table: those that can be pruned, and why others cannot."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from pruning.model_registry import Entry, Refused
from search.reporting import formatting
from search.reporting.tables import new_table

NAMED = 4  # of many models that are refused for one reason, so many are named


def backbone_table(entries: Sequence[Entry]) -> RenderableType:
    """A line for each model that can be pruned."""
    title = f"{formatting.count(len(entries), 'backbone')} can be pruned (one multiply-add = one FLOP)"
    table = new_table(title=title, title_justify="left")
    table.add_column("backbone", overflow="fold")
    for name in ("input", "blocks", "tokens", "prefix", "GFLOPs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("pretrained", overflow="fold")
    for entry in entries:
        _, height, width = entry.image_shape
        table.add_row(
            entry.name,
            f"{height}x{width}",
            str(entry.blocks),
            str(entry.tokens),
            f"{entry.prefix}{'' if entry.class_token else ' (no class)'}" if entry.prefix else "none",
            f"{entry.flops / 1e9:.2f}",
            ", ".join(tag or "(untagged)" for tag in entry.tags) or Text("none", style="dim"),
        )
    return table


def refused_text(refused: Sequence[Refused]) -> str:
    """Reasons with the models they hold for: all of few, the first of many."""
    groups: dict[str, list[str]] = {}
    for each in refused:
        groups.setdefault(each.reason, []).append(each.name)
    lines = [f"{formatting.count(len(refused), 'timm model')} cannot be pruned:"]
    for reason, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(textwrap.fill(f"{', '.join(names[:NAMED])}{more}: {reason}", 110, subsequent_indent="    "))
    return "\n".join(lines)


def backbones_json(entries: Sequence[Entry], refused: Sequence[Refused]) -> dict[str, Any]:
    """One document: {"supported": [...], "refused": [...]}."""
    return {
        "supported": [{**each.to_dict(), "gflops": each.flops / 1e9} for each in entries],
        "refused": [each.to_dict() for each in refused],
    }
