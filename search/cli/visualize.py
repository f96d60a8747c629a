"""The command `ztp visualize`: which patches of an image survive under a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search import logs
from search.cli.options import argument, option, whole_number
from search.errors import InputError


def visualize(
    config: Annotated[Path, argument("best.yaml", "An exported configuration.")],
    images: Annotated[
        list[Path] | None, argument("[IMAGE]...", "Image files; default: images it was found on.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Default: the configuration's name.")
    ] = None,
    data: Annotated[str | None, option("DIR", "Without files: images of another folder.")] = None,
    count: Annotated[int | None, whole_number("N", "Without files: how many images; default: 4.")] = None,
) -> None:
    """Draw which patches survive each stage, as a contact sheet, with the answers before and after pruning."""
    from pruning.config import read_config
    from search.reporting.plots import canvas

    if images and (data is not None or count is not None):
        flag = "--data" if data is not None else "--count"
        raise InputError(flag, "is for a sheet without image files", f"it beside {images[0]}", "drop one")
    target = output or Path(f"{config.stem}-patches.png")
    canvas.check_path(target, endings=(".png",), flag="--output")
    read = read_config(config)

    from search.evaluation.token_trace import anatomies  # only now: torch, for seconds
    from search.reporting import formatting
    from search.reporting.plots import patches_plot

    rows = anatomies(read, config, images or (), data, 4 if count is None else count)
    title = f"{read.backbone['name']}, {formatting.stages(read.schedule, named=True)}"
    canvas.write_bytes(target, patches_plot.png(rows, title))
    logs.say(f"ztp: wrote {target}: {formatting.count(len(rows), 'image')}")
