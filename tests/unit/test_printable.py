"""Characters that a terminal obeys are replaced by visible ones, one for one."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
from rich.text import Text

from esteira.values.printable import indented, json_line, one_line, printable
from esteira_web.cli import display
from esteira_web.cli.out import Out

ODD = [
    "\x1b[31m",
    "\x9b31m",
    "\r",
    "\b",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u200f",
    "\ufeff",
    "\u2028",
    "\x00",
    "\ud800",
    "\U000e0041",
]


@pytest.mark.parametrize("odd", ODD)
def test_no_odd_character_is_left(odd: str) -> None:
    for shown in (printable(odd), one_line(odd), indented(odd)):
        assert len(shown) == len(odd)
        assert shown[0] != odd[0]


@pytest.mark.parametrize(
    "text", ["Ana", "Olá, São Paulo", "你好", "👩‍💻", "می‌خواهم", "שלום", "tab\there", ""]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert (
        printable(text) == one_line(text) == json_line(text.replace("\t", "")) if "\t" not in text else True
    )
    assert printable(text) == text


def test_line_breaks_are_kept_or_shown() -> None:
    assert (printable("a\nb"), one_line("a\nb"), indented("a\nb")) == ("a\nb", "a␊b", "a\n  b")


@pytest.mark.parametrize("odd", ODD)
def test_json_means_the_same(odd: str) -> None:
    line = json_line(json.dumps({odd: [odd]}, ensure_ascii=False))

    assert json.loads(line) == {odd: [odd]}
    assert line.isascii()


def test_every_character_is_known() -> None:
    """Whatever Unicode calls a control or a format is one; only what joins letters is left."""
    whole = "".join(map(chr, range(sys.maxunicode + 1)))

    left = {unicodedata.category(c) for c in one_line(whole)}
    formats = {c for c in one_line(whole) if unicodedata.category(c) == "Cf"}

    assert left.isdisjoint({"Cs", "Zl", "Zp"})
    assert formats == {"\u200c", "\u200d"}
    assert {c for c in one_line(whole) if unicodedata.category(c) == "Cc"} == {"\t"}


def test_a_cell_of_several_lines_keeps_ours_and_no_other() -> None:
    table = display.grid("job", "end")
    table.add_row(display.lines(Text("demo.greet", style="bold"), "greets\nsucceeded"), "ends\nhere")
    out = Out(seen := io.StringIO(), io.StringIO(), color=False)

    out.show(table)

    assert [line.split() for line in seen.getvalue().splitlines()[2:]] == [
        ["demo.greet", "ends␊here"],
        ["greets␊succeeded"],
    ]
