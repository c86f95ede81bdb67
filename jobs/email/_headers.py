"""Texts for headers: each on one line, and folded at a space, so that no mail program shows a gap."""

from __future__ import annotations

import re
import unicodedata
from email.header import Header
from urllib.parse import quote

ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bq]\?[^?\s]*\?=", re.IGNORECASE)
LONGEST_WORD = 75  # RFC 2047, section 2
#: The space on a line for a piece of a file name, beside the name of the parameter.
LONGEST_PIECE = 54
PLAIN_NAME = re.compile(r"[\w .()+-]{1,54}", re.ASCII)


def one_line(value: str) -> str:
    """Refuse a text that could begin another header."""
    if any(breaks_lines(c) for c in value):
        raise ValueError("contains a line break or another control character; write it on one line.")
    if ENCODED_WORD.search(value):  # a mail program would decode it, including line breaks
        raise ValueError("is encoded for a header already; write it as people read it.")
    return value


def breaks_lines(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Zl", "Zp"}


def phrase(name: str) -> str:
    """Return a name for a header, before its address: in quotes, or in encoded words that end where its words end.

    Mail programs ignore the space between two encoded words, so each encoded word includes its own space.
    """
    if name.isascii():
        return f'"{name}"'
    groups: list[str] = []
    for word in re.findall(r"\S+\s*|\s+", name):
        if groups and len(_encoded(groups[-1] + word)) <= LONGEST_WORD:
            groups[-1] += word
        else:
            groups.append(word)
    return " ".join(_encoded(group).replace("\n", "") for group in groups)


def _encoded(text: str) -> str:
    """Return the text as an encoded word; a long text becomes several, with a space and a line break between them."""
    return Header(text, "utf-8", maxlinelen=LONGEST_WORD).encode()


def attachment_named(name: str) -> str:
    """Return the header of an attachment; a long name is split into pieces (RFC 2231), because lines have a limit."""
    if PLAIN_NAME.fullmatch(name):
        return f'attachment; filename="{name}"'
    pieces = ["utf-8''"]
    for character in name:
        written = quote(character, safe="")
        if len(pieces[-1]) + len(written) > LONGEST_PIECE:
            pieces.append("")
        pieces[-1] += written
    if len(pieces) == 1:
        return f"attachment; filename*={pieces[0]}"
    return "; ".join(["attachment", *(f"filename*{n}*={piece}" for n, piece in enumerate(pieces))])
