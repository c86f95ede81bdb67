"""Send one message over an open SMTP connection; the error depends on the step that was reached.

Until the last byte is sent, no recipient has the message, and it may be sent again. After it, a recipient may have the
message, so a missing or unreadable answer is an error of its own. RFC 5321 gives each step a time limit: the server may
scan a message for ten minutes, but has to answer a command within the limit of the connection.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

from esteira import TimeLimitExceeded

#: The time that a server has to answer a whole message: RFC 5321, section 4.5.3.2.6.
VERDICT_S = 600.0
SLICE = 64 * 1024
CLOSING = 421
WANTED, GO_ON, PUT_OFF, REFUSED = 2, 3, 4, 5


class Refusal(NamedTuple):
    """An SMTP answer: 4xx defers, 5xx refuses permanently, and 0 means no answer."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


class Broken(Exception):
    """The connection cannot be used any more, and no recipient has the message.

    `at` are the recipients at which it broke, `welcome` those that the server had accepted before. `silent` means that
    the server did not answer within the time limit; other servers close the connection.
    """

    def __init__(self, said: str, at: Sequence[str] = (), *, silent: bool = False) -> None:
        super().__init__(said)
        self.at = tuple(at)
        self.silent = silent
        self.welcome: tuple[str, ...] = ()


class Unclear(Exception):
    """The whole message was sent, and no answer shows whether the server accepted it."""


def hand_over(
    smtp: smtplib.SMTP,
    sender: str,
    people: Sequence[str],
    content: bytes,
    refused: MutableMapping[str, Refusal],
) -> None:
    """Send a message to these bare addresses; add refused ones to `refused`. Raises Broken or Unclear."""
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
    """Compare the first digit of a code only; the others are not reliable: RFC 5321, section 4.2."""
    return answer.code // 100 == kind


def _asked(smtp: smtplib.SMTP, command: str, *, wanted: int = WANTED, at: Sequence[str] = ()) -> Refusal:
    try:
        answer = as_refusal(*smtp.docmd(command))
    except OSError as error:
        # Every exception of smtplib is an OSError, and smtplib reports a timeout as a closed connection.
        silent = isinstance(error.__context__, TimeoutError)
        raise Broken(f"The connection to the mail server broke: {error}", at, silent=silent) from error
    if answer.code == CLOSING:
        raise Broken(f"The mail server closed the connection: {answer}", at)
    if answer.code // 100 not in (wanted, PUT_OFF, REFUSED):
        raise Broken(f"The mail server answered {command[:4]} with an invalid code: {answer}", at)
    return answer


def _sent(smtp: smtplib.SMTP, content: bytes, *, at: Sequence[str]) -> Refusal:
    lines = re.sub(rb"(?m)^\.", b"..", content)
    end = b".\r\n" if lines.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        # The time limit is for one slice, not for the whole message.
        for start in range(0, len(lines), SLICE):
            smtp.send(lines[start : start + SLICE])
    except OSError as error:
        raise Broken(f"The connection to the mail server broke: {error}", at) from error
    sock = smtp.sock
    assert sock is not None  # it has sent all slices
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
    """Reset the server's state for the next message; close the connection if it does not answer."""
    try:
        code, _ = smtp.rset()
    except OSError:
        code = 0
    if code // 100 != WANTED:
        smtp.close()


def as_refusal(code: int, reply: bytes | str) -> Refusal:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return Refusal(code, " ".join(text.split())[:300])
