"""The message: its headers, its attachments, and a Message-ID that is the same in every attempt."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from email.encoders import encode_base64
from email.mime.base import MIMEBase
from email.utils import parseaddr
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives

from esteira import Context, GiveUp
from esteira.errors import NotFound
from jobs.email._addresses import ascii_domain, bare, in_header
from jobs.email._headers import attachment_named, breaks_lines

MIB = 1024**2
LARGEST_ATTACHMENTS = 25 * MIB  # most mail servers accept this, and it is a small part of a worker's memory
READ_BYTES = 256 * 1024


class Letter:
    """The common parts of all copies of a message; the attachments are read once.

    `first_job` is this job, or the one that it follows up: mail that it may have sent has the same Message-ID.
    """

    def __init__(self, ctx: Context, *, first_job: UUID, **params: Any) -> None:
        self.params: Mapping[str, Any] = {**params, "first_job": first_job}
        self._sender = _sender()
        self._attachments = _read_attachments(ctx, params["attachments"])

    def addressed(self, to: Sequence[str], *, apart: bool = False) -> EmailMultiAlternatives:
        """Return the message to these addresses; `apart` makes a separate Message-ID from the first address."""
        params = self.params
        message = EmailMultiAlternatives(
            params["subject"],
            params["text"],
            in_header(self._sender),
            [in_header(one) for one in to],
            reply_to=[in_header(params["reply_to"])] if params["reply_to"] else None,
            headers={"Message-ID": self._message_id(bare(to[0]) if apart else "")},
        )
        if params["html"]:
            message.attach_alternative(params["html"], "text/html")
        for attachment in self._attachments:
            message.attach(attachment)
        return message

    def _message_id(self, address: str) -> str:
        """Make the Message-ID from the first job's id alone: the same for every attempt, on every host."""
        domain = bare(self._sender).rpartition("@")[2]
        copy = f".{hashlib.sha256(address.encode()).hexdigest()[:16]}" if address else ""
        return f"<{self.params['first_job']}{copy}@{domain}>"


def _sender() -> str:
    """Return DEFAULT_FROM_EMAIL as a checked address; in a company network its domain may have no dot."""
    name, address = parseaddr(settings.DEFAULT_FROM_EMAIL)
    local, at, domain = address.rpartition("@")
    try:
        sender = f"{local}@{ascii_domain(domain)}"
    except ValueError as error:
        raise GiveUp(f"DEFAULT_FROM_EMAIL {error} Then retry this job.") from None
    if not at or not sender.isascii():
        raise GiveUp(
            "DEFAULT_FROM_EMAIL is not an address such as jobs@example.org; correct it, then retry this job."
        )
    plain = name.translate(str.maketrans("", "", '"\\'))
    return f'"{plain}" <{sender}>' if plain else sender


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
                        f"attachments: together they exceed {LARGEST_ATTACHMENTS // MIB} MiB; send fewer, or a link."
                    )
    except NotFound as error:
        raise GiveUp(f"attachments: {error} The file may have been deleted; upload it again.") from None
    return name, bytes(data)


def _part(name: str, data: bytes) -> MIMEBase:
    """Wrap a file without changing a byte; as text, mail servers would change its line ends."""
    guessed, encoding = mimetypes.guess_type(name)
    kind, _, subkind = (guessed or "").partition("/")
    if encoding or kind not in {"application", "audio", "image", "text", "video"}:
        kind, subkind = "application", "octet-stream"
    part = MIMEBase(kind, subkind)
    part.set_payload(data)
    encode_base64(part)
    part["Content-Disposition"] = attachment_named(name)
    return part


def _file_name(name: object) -> str:
    """Return a file name that cannot break its header, nor name another folder when it is saved."""
    last = re.split(r"[/\\]", name)[-1] if isinstance(name, str) else ""
    return "".join(c for c in last if not breaks_lines(c)).strip(" .")[:200] or "attachment"
