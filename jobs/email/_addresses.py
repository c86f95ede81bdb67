"""Addresses: parse them as people type and paste them, and write them as SMTP and headers need them.

A checked address has one canonical form: `ana@example.org` or `"Ana Lima" <ana@example.org>`, with its domain in ASCII
and without needless quotes. So two addresses are the same if their bare forms are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import idna
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from jobs.email._headers import one_line, phrase

LONGEST_NAME = 100
DOT_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
#: A text in quotes at the beginning of a word, or an address in its brackets: separators inside do not count.
_WHOLE = r"""(?:(?<![^\s;,])"(?:\\.|[^"\\])*"|<[^<>]*>|[^{ends}])+"""
PARTS = re.compile(_WHOLE.format(ends=r";\r\n"))
PIECES = re.compile(_WHOLE.format(ends=","))


def split_addresses(value: Any) -> Any:
    """Split a text into a list of addresses, as people type it or paste it from a mail program.

    Semicolons and line ends separate, and so do commas, unless they belong to a name: in quotes, or before the only
    address of a part, as in `Lima, Ana <ana@example.org>; Souza, Rui <rui@example.org>`.
    """
    if not isinstance(value, str):
        return value
    found: list[str] = []
    for part in PARTS.findall(value):
        named = part.count("@") == 1 and part.rstrip().endswith(">")
        found += [part] if named else PIECES.findall(part)
    return [one.strip() for one in found if one.strip()]


def checked_address(value: str) -> str:
    """Check `ana@example.org` or `Ana Lima <ana@example.org>`; return its canonical form."""
    found = re.fullmatch(r"(?:([^<>]*)<([^<>]+)>|([^<>]+))", one_line(value).strip())
    name, inside, alone = found.groups() if found else ("", "", "")
    address = _checked((inside or alone or "").strip(), whole=value)
    plain = (name or "").translate(str.maketrans("", "", '"\\')).strip()
    if len(plain) > LONGEST_NAME:
        raise ValueError(f"has a name of more than {LONGEST_NAME} characters; shorten it.")
    return f'"{plain}" <{address}>' if plain else address


def bare(address: str) -> str:
    """Return a checked address without its name."""
    return address.rpartition("<")[2].removesuffix(">")


def in_header(address: str) -> str:
    """Return a checked address as it is written in a header."""
    name = address.rpartition("<")[0].strip().strip('"')
    return f"{phrase(name)} <{bare(address)}>" if name else address


def without_repeats(addresses: Sequence[str]) -> list[str]:
    """Keep the first of each address; its name and its upper or lower case make no difference."""
    first: dict[str, str] = {}
    for one in addresses:
        first.setdefault(bare(one).lower(), one)
    return list(first.values())


def ascii_domain(domain: str) -> str:
    """Return a domain in its form for DNS; raises ValueError.

    Python's own codec follows IDNA 2003, in which straße.de is strasse.de: a domain that may have another owner.
    """
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except UnicodeError as error:
        raise ValueError(f"has a domain that cannot be registered ({error}); correct it.") from None


def _checked(value: str, *, whole: str) -> str:
    local, at, domain = value.rpartition("@")
    address = f"{_mailbox(local)}@{ascii_domain(domain) if at else ''}"
    try:
        validate_email(address)
    except ValidationError:
        address = ""
    if not address or not address.isascii():
        raise ValueError(
            f"is not an address such as ana@example.org or Ana Lima <ana@example.org>: {whole[:60]!r}. "
            "In one text, put a name with a comma or a semicolon in quotes."
        )
    return address


def _mailbox(local: str) -> str:
    """Remove needless quotes from a local part: with and without them it is the same mailbox."""
    if len(local) < 2 or local[0] != '"' or local[-1] != '"':
        return local
    plain = re.sub(r"\\(.)", r"\1", local[1:-1])
    if DOT_ATOM.fullmatch(plain):
        return plain
    escaped = re.sub(r'(["\\])', r"\\\1", plain)
    return f'"{escaped}"'
