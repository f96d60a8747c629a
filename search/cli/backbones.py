"""The command of `ztp` that shows which backbones there are."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from search.cli.options import AsJson, argument, option


def backbones(
    pattern: Annotated[
        str | None, argument("[PATTERN]", "A part of a name, or one with * and ?; or demo; default: all of timm's.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also say why the others cannot be pruned.")] = False,
    source: Annotated[str, option("NAME", "Whose models: timm, hf (Hugging Face), torchvision or openclip.")] = "timm",
    as_json: AsJson = False,
) -> None:
    """List models that can be pruned, timm's or another library's: input size, blocks, tokens, cost, weights."""
    from rich.progress import track

    from pruning.model_registry import Entry, Refused, look_up, look_up_source, names
    from search.evaluation.data.decode_cache_files import cache_folder
    from search.evaluation.data.progress import stderr_console
    from search.reporting import catalogue, tables

    if source == "timm":
        chosen = names() if pattern is None else names(pattern)
        console = stderr_console()
        looks: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
        answers = list(track(look_up(chosen, cache_folder()), "asking timm's models", len(chosen), **looks))
    else:
        answers = look_up_source(source, pattern or "*")
    entries = [each for each in answers if isinstance(each, Entry)]
    refused = [each for each in answers if isinstance(each, Refused)] if everything or pattern is not None else []
    if as_json:
        print(json.dumps(catalogue.backbones_json(entries, refused), indent=2))
        return
    parts = [catalogue.backbone_table(entries)] if entries else []
    tables.show(*parts, *([catalogue.refused_text(refused)] if refused else []))
