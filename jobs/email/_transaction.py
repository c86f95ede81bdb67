"""One message over an open SMTP connection, told by how far it got.

Until the last byte is on its way, nobody has the message, and it may be sent again. After it somebody may have it, so
no answer, or one that cannot be read, is told apart from everything else. RFC 5321 gives each step a limit of its own:
the server may scan what it got for ten minutes, while a command is answered within the limit of the connection.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

from esteira import TimeLimitExceeded

#: How long a server may think about a whole message: RFC 5321, section 4.5.3.2.6.
VERDICT_S = 600.0
SLICE = 64 * 1024
CLOSING = 421
WANTED, GO_ON, PUT_OFF, REFUSED = 2, 3, 4, 5


class Refusal(NamedTuple):
    """An SMTP answer: 4xx puts off, 5xx refuses for good, and 0 is none at all."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


class Broken(Exception):
    """The connection is of no use any more, and nobody has the message.

    `at` are those at whom it broke, and `welcome` those whom the server had accepted before. `silent` is a server that
    said nothing until the limit, where others hang up.
    """

    def __init__(self, said: str, at: Sequence[str] = (), *, silent: bool = False) -> None:
        super().__init__(said)
        self.at = tuple(at)
        self.silent = silent
        self.welcome: tuple[str, ...] = ()


class Unclear(Exception):
    """The message was handed over whole, and there is no answer that tells what became of it."""


def hand_over(
    smtp: smtplib.SMTP,
    sender: str,
    people: Sequence[str],
    content: bytes,
    refused: MutableMapping[str, Refusal],
) -> None:
    """Hand a message over for these bare addresses, and note whom the server refused. Raises Broken or Unclear."""
    size = f" size={len(content)}" if smtp.has_extn("size") else ""
    answer = _asked(smtp, f"MAIL FROM:<{sender}>{size}")
    if not _is(answer, WANTED):
        refused.update(dict.fromkeys(people, answer))
        return _begin_anew(smtp)
    welcome = _welcome(smtp, people, refused)
    if welcome:
        answer = _asked(smtp, "DATA", wanted=GO_ON, at=welcome)
        if _is(answer, GO_ON):
            answer = _sent(smtp, content, at=welcome)
        if not _is(answer, WANTED):
            refused.update(dict.fromkeys(welcome, answer))
    if refused:
        _begin_anew(smtp)
    return None


def _welcome(smtp: smtplib.SMTP, people: Sequence[str], refused: MutableMapping[str, Refusal]) -> list[str]:
    welcome: list[str] = []
    for one in people:
        try:
            answer = _asked(smtp, f"RCPT TO:<{one}>", at=[one])
        except Broken as trouble:
            trouble.welcome = tuple(welcome)
            raise
        if _is(answer, WANTED):
            welcome.append(one)
        else:
            refused[one] = answer
    return welcome


def _is(answer: Refusal, kind: int) -> bool:
    """Only the first digit of a code is a promise: RFC 5321, section 4.2."""
    return answer.code // 100 == kind


def _asked(smtp: smtplib.SMTP, command: str, *, wanted: int = WANTED, at: Sequence[str] = ()) -> Refusal:
    try:
        answer = as_refusal(*smtp.docmd(command))
    except (
        OSError
    ) as error:  # every exception of smtplib is one, and a timeout is told as a closed connection
        silent = isinstance(error.__context__, TimeoutError)
        raise Broken(f"The connection to the mail server broke: {error}", at, silent=silent) from error
    if answer.code == CLOSING:
        raise Broken(f"The mail server closed the connection: {answer}", at)
    if answer.code // 100 not in (wanted, PUT_OFF, REFUSED):
        raise Broken(f"The mail server answered {command[:4]} by nonsense: {answer}", at)
    return answer


def _sent(smtp: smtplib.SMTP, content: bytes, *, at: Sequence[str]) -> Refusal:
    lines = re.sub(rb"(?m)^\.", b"..", content)
    end = b".\r\n" if lines.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        for start in range(0, len(lines), SLICE):  # the limit is one slice's, however long the message is
            smtp.send(lines[start : start + SLICE])
    except OSError as error:
        raise Broken(f"The connection to the mail server broke: {error}", at) from error
    sock = smtp.sock
    assert sock is not None  # it took all slices
    usual = sock.gettimeout()
    try:
        sock.settimeout(VERDICT_S)
        smtp.send(end)
        answer = as_refusal(*smtp.getreply())
    except (OSError, TimeLimitExceeded) as error:
        raise Unclear(str(error)) from error
    if answer.code // 100 not in (WANTED, PUT_OFF, REFUSED):
        raise Unclear(str(answer))
    sock.settimeout(usual)
    return answer


def _begin_anew(smtp: smtplib.SMTP) -> None:
    """Clear the server's mind for the next message; without an answer to this the connection is of no use."""
    try:
        code, _ = smtp.rset()
    except OSError:
        code = 0
    if code // 100 != WANTED:
        smtp.close()


def as_refusal(code: int, reply: bytes | str) -> Refusal:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return Refusal(code, " ".join(text.split())[:300])
