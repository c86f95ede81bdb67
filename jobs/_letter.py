"""The message itself: addresses and a subject that smuggle in no header, attachments, a Message-ID that repeats."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import unicodedata
from collections.abc import Mapping, Sequence
from email.encoders import encode_base64
from email.mime.base import MIMEBase
from email.utils import parseaddr
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.utils.encoding import punycode

from esteira import Context, GiveUp
from esteira.errors import NotFound

MIB = 1024**2
LARGEST_ATTACHMENTS = 25 * MIB  # what most mail servers take, and a fraction of what a worker may hold
READ_BYTES = 256 * 1024
LONGEST_NAME = 100
ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bq]\?[^?\s]*\?=", re.IGNORECASE)


def one_line(value: str) -> str:
    """Refuse what could begin a header of its own."""
    if any(_breaks_lines(c) for c in value):
        raise ValueError("holds a line break or another control character; write it on one line.")
    if ENCODED_WORD.search(value):  # a mail program would decode it, line breaks and all
        raise ValueError("is encoded for a header already; write it as people read it.")
    return value


def checked_address(value: str) -> str:
    """Check `ana@example.org` or `Ana Lima <ana@example.org>`; return it as a header wants it."""
    found = re.fullmatch(r"(?:([^<>]*)<([^<>]+)>|([^<>]+))", one_line(value).strip())
    name, inside, alone = found.groups() if found else ("", "", "")
    bare = _bare((inside or alone or "").strip())
    plain = (name or "").translate(str.maketrans("", "", '"\\')).strip()
    if len(plain) > LONGEST_NAME:
        raise ValueError(f"has a name of more than {LONGEST_NAME} characters; shorten it.")
    return f'"{plain}" <{bare}>' if plain else bare


def _bare(value: str) -> str:
    """Check an address without a name; its domain becomes ASCII, as SMTP speaks it."""
    local, _, domain = value.rpartition("@")
    try:
        bare = f"{local}@{punycode(domain)}"
        validate_email(bare)
    except (ValidationError, UnicodeError):
        bare = ""
    if not bare.isascii() or not bare:
        raise ValueError("is not an address such as ana@example.org or Ana Lima <ana@example.org>.")
    return bare


def without_repeats(addresses: Sequence[str]) -> list[str]:
    """Keep the first of each; how it is written (name, capitals) makes no difference."""
    first: dict[str, str] = {}
    for one in addresses:
        first.setdefault(parseaddr(one)[1].lower(), one)
    return list(first.values())


class Letter:
    """What all copies of a message have in common; the attachments are read once."""

    def __init__(self, ctx: Context, **params: Any) -> None:
        self.params: Mapping[str, Any] = params
        self._key = ctx.idempotency_key
        self._attachments = _read_attachments(ctx, params["attachments"])

    def addressed(self, to: Sequence[str], *, apart: bool = False) -> EmailMultiAlternatives:
        """Return the message for these people; `apart` gives the first one's copy a Message-ID of its own."""
        params = self.params
        message = EmailMultiAlternatives(
            params["subject"],
            params["text"],
            settings.DEFAULT_FROM_EMAIL,
            list(to),
            reply_to=[params["reply_to"]] if params["reply_to"] else None,
            headers={"Message-ID": _message_id(self._key, to[0] if apart else "")},
        )
        if params["html"]:
            message.attach_alternative(params["html"], "text/html")
        for attachment in self._attachments:
            message.attach(attachment)
        return message


def _message_id(key: str, address: str) -> str:
    """Make the Message-ID from the idempotency key alone: the same for every attempt, on every host."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    copy = f".{hashlib.sha256(address.encode()).hexdigest()[:16]}" if address else ""
    return f"<{key}{copy}@{punycode(domain)}>"


def _read_attachments(ctx: Context, refs: Sequence[str]) -> list[MIMEBase]:
    read: list[MIMEBase] = []
    room = LARGEST_ATTACHMENTS
    for n, ref in enumerate(refs):
        ctx.progress(n, len(refs), "Reading attachments")
        name, data = _read(ctx, ref, room)
        room -= len(data)
        read.append(_part(name, data))
    return read


def _read(ctx: Context, ref: str, room: int) -> tuple[str, bytes]:
    data = bytearray()
    try:
        with ctx.open(ref) as stream:
            name = _file_name(getattr(stream, "name", ""))
            while piece := stream.read(READ_BYTES):
                data += piece
                if len(data) > room:
                    raise GiveUp(
                        f"attachments: together larger than {LARGEST_ATTACHMENTS // MIB} MiB; send fewer, or a link."
                    )
    except NotFound as error:
        raise GiveUp(f"attachments: {error} It may have been deleted; upload it again.") from None
    return name, bytes(data)


def _part(name: str, data: bytes) -> MIMEBase:
    """Wrap a file byte for byte; as text, its line ends would be changed on the way."""
    guessed, encoding = mimetypes.guess_type(name)
    kind, _, subkind = (guessed or "").partition("/")
    if encoding or kind not in {"application", "audio", "image", "text", "video"}:
        kind, subkind = "application", "octet-stream"
    part = MIMEBase(kind, subkind)
    part.set_payload(data)
    encode_base64(part)
    part.add_header(
        "Content-Disposition", "attachment", filename=name if name.isascii() else ("utf-8", "", name)
    )
    return part


def _file_name(name: object) -> str:
    """Make a name that cannot leave its header, nor its folder when somebody saves it."""
    last = re.split(r"[/\\]", name)[-1] if isinstance(name, str) else ""
    return "".join(c for c in last if not _breaks_lines(c)).strip(" .")[:200] or "attachment"


def _breaks_lines(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Zl", "Zp"}
