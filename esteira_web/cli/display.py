"""Colours, short forms and tables of the terminal output, the same for every command."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esteira.values import readable
from esteira.values.printable import one_line

STYLES = {
    "scheduled": "blue",
    "queued": "",
    "retrying": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "dead": "bold red",
    "cancelled": "magenta",
    "expired": "magenta",
}


def short_id(job_id: UUID) -> str:
    return str(job_id)[-12:]


def state(name: str) -> Text:
    return Text(name, style=STYLES.get(name, ""))


def as_json(value: Any) -> str:
    short = readable.as_json(value, spaced=True)
    return short if len(short) <= 100 else readable.as_json(value, indent=2)


class Grid(Table):
    """A table of one line per row: line breaks in a cell are removed."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(_on_one_line(cell) for cell in cells), **options)


def _on_one_line(cell: Any) -> Any:
    if isinstance(cell, Text):
        cell.plain = one_line(cell.plain)
    return one_line(cell) if isinstance(cell, str) else cell


def lines(*texts: Text | str) -> Group:
    """Return a cell with one line per text: line breaks inside a text are removed."""
    return Group(*(_on_one_line(text if isinstance(text, Text) else Text(text)) for text in texts))


def grid(*columns: str) -> Table:
    """Return a table with headings and without borders."""
    table = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def pairs() -> Table:
    """Return a table of names and values."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
