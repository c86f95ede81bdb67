"""Tables for spreadsheets, CSV and XLSX, written row by row and safe to open.

Job types, names and error messages are untrusted texts. A spreadsheet program runs a cell that begins like a formula,
so such cells get an apostrophe before them in CSV; in XLSX every text is stored as text and marked as quoted.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import IO, Any

from jobs.reports._history import GROUPS, Period, Row, TypeLine

FORMULA_SIGNS = frozenset("=+-@\u2212")
#: Invisible letters and marks, beside the controls, formats and spaces; a program may ignore all of them.
UNSEEN = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
#: One colour per group, also distinguishable with colour blindness.
COLOURS = ("#2e7d32", "#c62828", "#757575", "#1565c0")
HEADINGS = {
    "id": 37,
    "type": 26,
    "state": 11,
    "queue": 12,
    "priority": 9,
    "attempts": 9,
    "tries": 9,
    "max_tries": 9,
    "submitted_by": 16,
    "submitted": 20,
    "started": 20,
    "finished": 20,
    "waited_s": 10,
    "ran_s": 10,
    "error": 60,
}


def looks_like_formula(text: str) -> bool:
    """Return whether a spreadsheet program may run a cell; some ignore invisible characters before the sign."""
    if text[:1] in {"\t", "\r", "\n"}:
        return True
    first = next((c for c in text if not _unseen(c)), "")
    return (
        unicodedata.normalize("NFKC", first) in FORMULA_SIGNS
    )  # wide and small signs count like the plain ones


def _unseen(character: str) -> bool:
    return unicodedata.category(character)[0] in "CZ" or UNSEEN.match(character) is not None


def write_csv(out: IO[bytes], rows: Iterable[Row]) -> None:
    """Write RFC 4180 in UTF-8, with time offsets. Without the byte order mark, Excel would use another encoding."""
    out.write(codecs.BOM_UTF8)
    lines = csv.writer(_Encoded(out))
    lines.writerow(HEADINGS)
    for row in rows:
        lines.writerow(_csv_cell(value) for value in _values(row))


class _Encoded:
    """Encodes text; a TextIOWrapper would close the file, which the caller owns."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text.encode())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return f"'{value}" if isinstance(value, str) and looks_like_formula(value) else value


def _values(row: Row) -> Iterator[Any]:
    return (getattr(row, name) for name in HEADINGS)


class Xlsx:
    """A workbook with a summary, a chart and every row; rows are written to a temporary file at once."""

    def __init__(self, out: IO[bytes]) -> None:
        import xlsxwriter

        # Texts are never turned into formulas, links or numbers.
        as_text = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
        self._book = xlsxwriter.Workbook(out, {"constant_memory": True, "remove_timezone": True, **as_text})
        self._bold = self._book.add_format({"bold": True})
        self._title = self._book.add_format({"bold": True, "font_size": 16})
        self._moment = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._seconds = self._book.add_format({"num_format": "0.000"})
        self._quoted = self._book.add_format({"quote_prefix": True})

    def summary(self, period: Period, note: str, lines: Sequence[TypeLine]) -> None:
        sheet = self._sheet("Summary", [30, 12, 12, 20, 20, 12, 12, 12])
        sheet.write_string(0, 0, "Job history", self._title)
        sheet.write_string(1, 0, str(period))
        sheet.write_string(2, 0, note)
        self._heading(sheet, 4, ["job type", *GROUPS, "all", "mean s", "longest s"])
        for n, line in enumerate(lines, 5):
            self._line(sheet, n, [line.type, *line.counts, line.jobs, line.mean_s, line.longest_s])

    def over_time(self, buckets: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Write the numbers of the chart, and the chart beside them."""
        name = "Over time"
        sheet = self._sheet(name, [12, *([20] * len(GROUPS))])
        self._heading(sheet, 0, ["from", *GROUPS])
        for n, (label, counts) in enumerate(buckets, 1):
            self._line(sheet, n, [label, *counts])
        chart = self._book.add_chart({"type": "column", "subtype": "stacked"})
        for column, colour in enumerate(COLOURS, 1):
            chart.add_series(
                {
                    "name": [name, 0, column],
                    "categories": [name, 1, 0, len(buckets), 0],
                    "values": [name, 1, column, len(buckets), column],
                    "fill": {"color": colour},
                    "gap": 40,
                }
            )
        chart.set_title({"name": "Jobs submitted"})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": 760, "height": 380})
        sheet.insert_chart(1, len(GROUPS) + 2, chart)

    def jobs(self, rows: Iterable[Row]) -> None:
        sheet = self._sheet("Jobs", list(HEADINGS.values()))
        self._heading(sheet, 0, list(HEADINGS))
        sheet.freeze_panes(1, 0)
        last = 0
        for last, row in enumerate(rows, 1):
            self._line(sheet, last, _values(row))
        sheet.autofilter(0, 0, last, len(HEADINGS) - 1)

    def close(self) -> None:
        """Assemble the workbook and write it."""
        self._book.close()

    def _sheet(self, name: str, widths: Sequence[int]) -> Any:
        sheet = self._book.add_worksheet(name)
        for column, width in enumerate(widths):
            sheet.set_column(column, column, width)
        return sheet

    def _heading(self, sheet: Any, n: int, titles: Sequence[str]) -> None:
        for column, title in enumerate(titles):
            sheet.write_string(n, column, title, self._bold)

    def _line(self, sheet: Any, n: int, values: Iterable[Any]) -> None:
        for column, value in enumerate(values):
            if isinstance(value, str):
                sheet.write_string(n, column, value, self._quoted if looks_like_formula(value) else None)
            elif isinstance(value, datetime):
                sheet.write_datetime(n, column, value, self._moment)
            elif value is not None:
                sheet.write_number(n, column, value, self._seconds if isinstance(value, float) else None)
