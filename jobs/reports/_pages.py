"""The job history as a PDF: a summary, a chart, the numbers of each type, and the last failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any
from xml.sax.saxutils import escape

from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.charts.legends import Legend
from reportlab.graphics.shapes import Drawing
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from jobs.reports._history import GROUPS, Period, Row, TypeLine
from jobs.reports._sheets import COLOURS

WIDTH = A4[0] - 36 * mm
MOST_TYPES = 40
STYLES = getSampleStyleSheet()
SMALL = ParagraphStyle("small", parent=STYLES["Normal"], fontSize=8, leading=10)
RULED = [
    ("FONTSIZE", (0, 0), (-1, -1), 8),
    ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"),
    ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
    ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.lightgrey),
    ("LEFTPADDING", (0, 0), (-1, -1), 2),
    ("RIGHTPADDING", (0, 0), (-1, -1), 2),
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
]


def write_pdf(
    out: IO[bytes],
    period: Period,
    note: str,
    lines: Sequence[TypeLine],
    buckets: Sequence[tuple[str, tuple[int, ...]]],
    failures: Sequence[Row],
) -> None:
    """Write the document; its length depends on the number of job types, not on the number of jobs."""
    story: list[Flowable] = [
        Paragraph("Job history", STYLES["Title"]),
        _text(str(period)),
        _text(note),
        Spacer(0, 5 * mm),
    ]
    if lines:
        story += [_chart(buckets), _heading("Job types"), _types(lines[:MOST_TYPES])]
        if len(lines) > MOST_TYPES:
            story.append(_text(f"… and {len(lines) - MOST_TYPES} more types, which the XLSX lists."))
    if failures:
        story += [_heading("Failed last"), _failures(failures)]
    document = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=18 * mm,
        rightMargin=18 * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title=f"Job history {period.first} to {period.last}",
        author="Esteira",
        lang="en",
    )
    document.build(story, onFirstPage=_page_number, onLaterPages=_page_number)


def _page_number(canvas: Any, document: Any) -> None:
    canvas.setFont("Helvetica", 8)
    canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, str(document.page))


def _heading(title: str) -> Paragraph:
    return Paragraph(title, STYLES["Heading2"])


def _text(text: str) -> Paragraph:
    """Show a text literally: markup in a paragraph can load files and addresses, so it is escaped."""
    return Paragraph(escape(printable(text)), SMALL)


def printable(text: str) -> str:
    """Replace characters that the built-in fonts lack; XLSX and CSV have all characters."""
    return " ".join(text.split()).encode("cp1252", "replace").decode("cp1252")


def _chart(buckets: Sequence[tuple[str, tuple[int, ...]]]) -> Drawing:
    drawing = Drawing(WIDTH, 75 * mm)
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 28, 40, WIDTH - 36, 75 * mm - 50
    chart.data = [tuple(counts[group] for _, counts in buckets) for group in range(len(GROUPS))]
    chart.categoryAxis.categoryNames = [label for label, _ in buckets]
    chart.categoryAxis.style = "stacked"
    chart.categoryAxis.labels.fontSize = chart.valueAxis.labels.fontSize = 7
    if len(buckets) > 14:
        chart.categoryAxis.labels.angle = 90
        chart.categoryAxis.labels.boxAnchor = "e"
    chart.valueAxis.valueMin = 0
    chart.valueAxis.labelTextFormat = "%d"
    for n, colour in enumerate(COLOURS):
        chart.bars[n].fillColor = colors.HexColor(colour)
        chart.bars[n].strokeColor = None
    drawing.add(chart)
    drawing.add(_legend())
    return drawing


def _legend() -> Legend:
    legend = Legend()
    legend.x, legend.y, legend.fontSize, legend.alignment = 28, 8, 8, "right"
    legend.columnMaximum, legend.deltax, legend.dxTextSpace = 1, 110, 4
    legend.colorNamePairs = [(colors.HexColor(c), group) for c, group in zip(COLOURS, GROUPS, strict=True)]
    return legend


def _types(lines: Sequence[TypeLine]) -> Table:
    heading = ["job type", *GROUPS, "all", "mean s", "max s"]
    body = [
        [_text(line.type), *line.counts, line.jobs, _number(line.mean_s), _number(line.longest_s)]
        for line in lines
    ]
    widths = [0.26, 0.11, 0.08, 0.19, 0.16, 0.06, 0.07, 0.07]
    return _table([heading, *body], widths)


def _failures(failures: Sequence[Row]) -> Table:
    body = [
        [
            _text(row.type),
            _text(f"{row.finished or row.submitted:%Y-%m-%d %H:%M}"),
            _text(row.error),
            _text(row.id),
        ]
        for row in failures
    ]
    return _table([["job type", "ended", "error", "job"], *body], [0.2, 0.14, 0.42, 0.24], right=False)


def _table(cells: Sequence[Sequence[Any]], widths: Sequence[float], *, right: bool = True) -> Table:
    table = Table(cells, colWidths=[WIDTH * width for width in widths], repeatRows=1)
    table.setStyle(TableStyle(RULED if right else RULED[:-1]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
