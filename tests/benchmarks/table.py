"""The table that every benchmark prints, and keeps as JSON if asked.

    parser = make_parser(__doc__)                     # knows --json FILE; add the benchmark's own options
    arguments = parser.parse_args()
    table = Table("stage", arguments, device, {"batch": "", "GFLOPs": ".3f", "spread": ".1%"})
    table.add({"batch": 16, "GFLOPs": 3.0214, "spread": 0.012})   # printed at once: | 16 | 3.021 | 1.2% |
    table.finish({"worst spread": "1.2%"})            # prints the summary, writes the file

What is printed is Markdown, ready for the README; what is written is exact: {"benchmark", "hardware", "settings",
"rows"}, with "summary" where there is one. Knows text and files. Ignores what is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruning.yaml_io import write_text
from tests.benchmarks.hardware import hardware_line


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring as it stands, and which knows --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write settings, hardware and rows here")
    return parser


def _new_file(text: str) -> Path:
    """Refused before half an hour of measuring, not after it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that is there, got {text}")
    return path


class Table:
    """Rows of one benchmark.

    arguments: from `make_parser`; all but --json are the settings. columns: heading -> format of its values, as in
    Python's format(); "" is str(). A value that is None, or missing, prints as an empty cell.
    """

    def __init__(
        self, benchmark: str, arguments: argparse.Namespace, device: torch.device, columns: Mapping[str, str]
    ) -> None:
        settings = dict(vars(arguments))
        self._file: Path | None = settings.pop("json")
        self._columns = dict(columns)
        self._rows: list[dict[str, Any]] = []
        self._facts = {"benchmark": benchmark, "hardware": hardware_line(device), "settings": settings}
        listed = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items() if value is not None)
        print(f"{benchmark}: {listed}; {self._facts['hardware']}\n")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Print a row and keep it. Values without a column are kept for the JSON alone."""
        self._rows.append(dict(row))
        cells = (_cell(row.get(name), form) for name, form in self._columns.items())
        print(f"| {' | '.join(cells)} |", flush=True)

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Print the summary, one `name: value` a line; write the whole file or nothing. Raises ConfigError."""
        document = self._facts | {"rows": self._rows}
        if summary:
            document |= {"summary": dict(summary)}
            print("\n" + "\n".join(f"{name}: {_plain(value)}" for name, value in summary.items()), flush=True)
        if self._file:
            write_text(self._file, json.dumps(document, indent=1, default=str) + "\n")


def _cell(value: Any, form: str) -> str:
    return "" if value is None else format(value, form) if form else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_plain(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
