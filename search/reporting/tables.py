"""Tables on stdout, as wide as the terminal allows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement as Measure
from rich.table import Table
from rich.text import Text

from search.types import FLOP_CONVENTION, Measurement

PLAIN_WIDTH = 240  # columns when nobody's terminal is the limit: a pipe or a file must not fold lines


def show(*parts: RenderableType) -> None:
    """Print results to stdout: as wide as a terminal is; where there is none, unfolded and without rich's padding."""
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    console.width = PLAIN_WIDTH
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    console.file.write("\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n")


def new_table(**options: Any) -> Table:
    """An empty table in the style of all of them."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), **options)


def facts_table(rows: Iterable[Sequence[RenderableType]]) -> Table:
    """A line a fact: its name, or what else is short, then the fact, folded where the terminal is narrow."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    known = list(rows)
    for _ in known[0][1:]:
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in known:
        table.add_row(*row)
    return table


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """One value per cell, empty where there is none. Rows may know more than the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def measured_cells(measured: Measurement) -> dict[str, Any]:
    """A measurement as flat cells, by column."""
    accuracy, throughput, where = measured.accuracy, measured.throughput, measured.setting
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "images": accuracy.images,
        "accuracy_kind": accuracy.kind,
        "flops": measured.flops,
        "gflops": measured.gflops,
        "throughput": throughput.images_per_s,
        "throughput_how": throughput.how,
        **{name: getattr(throughput, name) for name in ("speedup", "spread", "disturbed")},
        "schedule": str(measured.schedule),
        **vars(where),
        "flop_convention": FLOP_CONVENTION,
    }


class FittedTable:
    """A table that leaves out columns, the least important first, until it fits the terminal, and then says which.

    columns: by heading, rich's options of each. droppable: headings, the least important first. Rows are as in `Table`.
    """

    def __init__(self, columns: dict[str, dict[str, Any]], droppable: Sequence[str], title: Text | None = None) -> None:
        self.columns, self.droppable, self.title = columns, droppable, title
        self._rows: list[tuple[Sequence[RenderableType], dict[str, Any]]] = []

    def add_row(self, *cells: RenderableType, **options: Any) -> None:
        """options: as of rich's `Table.add_row`."""
        self._rows.append((cells, options))

    def without(self, dropped: Sequence[str]) -> Table:
        """With the columns that are not dropped."""
        table = new_table(title=self.title, title_justify="left")
        stay = [place for place, heading in enumerate(self.columns) if heading not in dropped]
        for place in stay:
            heading, options = list(self.columns.items())[place]
            widths = [cell_len(str(text)) for text in (heading, *(cells[place] for cells, _ in self._rows))]
            whole = {"min_width": max(widths)} if options.get("no_wrap") else {}  # rich takes the longest word's
            table.add_column(heading, **options | whole)
        for cells, given in self._rows:
            table.add_row(*(cells[place] for place in stay), **given)
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbound = options.update(max_width=PLAIN_WIDTH)  # else the least width counts as what there is
        for count in range(len(self.droppable) + 1):
            dropped = self.droppable[:count]
            table = self.without(dropped)
            if Measure.get(console, unbound, table).minimum <= options.max_width:
                break
        yield table
        if dropped:
            yield Text(f"not shown, for the terminal is {options.max_width} columns wide: {', '.join(dropped)}", "dim")
