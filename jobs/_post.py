"""The way to the mail server: one connection for many messages, and every refusal told."""

from __future__ import annotations

import smtplib
from contextlib import suppress
from email.utils import parseaddr
from typing import Any, NamedTuple, Self

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend

from esteira import GiveUp, Retry

SERVICE_CLOSES = 421
PERMANENT = 500


class Refusal(NamedTuple):
    """An SMTP answer: 4xx puts off, 5xx refuses for good."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class ConnectionLost(Retry):
    """The connection to the mail server broke."""


class Post:
    """One connection to the mail server for any number of messages, opened with the first."""

    def __init__(self) -> None:
        self._connection: BaseEmailBackend | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def deliver(self, message: EmailMultiAlternatives) -> dict[str, Refusal]:
        """Hand a message over; return whom the server refused.

        Servers close a connection after so many messages or minutes, so a lost one is opened again once. Raises Retry
        if the server is away, GiveUp if it wants nothing from us at all.
        """
        try:
            return self._deliver(message)
        except ConnectionLost:
            self._close()
            return self._deliver(message)

    def _deliver(self, message: EmailMultiAlternatives) -> dict[str, Refusal]:
        connection = self._connection = self._connection or _opened()
        try:
            connection.send_messages([message])
        except smtplib.SMTPRecipientsRefused as error:
            refused = {parseaddr(who)[1]: _refusal(*answer) for who, answer in error.recipients.items()}
        except smtplib.SMTPResponseException as error:
            refusal = _refusal(error.smtp_code, error.smtp_error)
            refused = {parseaddr(who)[1]: refusal for who in message.recipients()}
        except smtplib.SMTPNotSupportedError as error:
            raise GiveUp(f"The mail server cannot take this message: {error}") from error
        except OSError as error:  # SMTPServerDisconnected is one, too
            raise ConnectionLost(f"The connection to the mail server broke: {error}") from error
        else:
            return {}
        if any(refusal.code == SERVICE_CLOSES for refusal in refused.values()):
            raise ConnectionLost(f"The mail server closed the connection: {next(iter(refused.values()))}")
        return refused

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):  # what was accepted stays accepted if the good-bye fails
                connection.close()


def _opened() -> BaseEmailBackend:
    connection: BaseEmailBackend = get_connection()
    try:
        connection.open()
    except ImproperlyConfigured as error:
        raise GiveUp(f"{error} Then retry this job.") from error
    except smtplib.SMTPResponseException as error:
        refusal = _refusal(error.smtp_code, error.smtp_error)
        if refusal.code >= PERMANENT:
            raise GiveUp(f"The mail server lets us do nothing ({refusal}). Check EMAIL_URL.") from error
        raise Retry(f"The mail server puts us off ({refusal}).") from error
    except smtplib.SMTPNotSupportedError as error:
        raise GiveUp(f"The mail server cannot do what EMAIL_URL asks for: {error}") from error
    except OSError as error:
        raise Retry(f"The mail server does not answer: {error}") from error
    smtp = getattr(connection, "connection", None)
    if isinstance(smtp, smtplib.SMTP):
        _tell_every_refusal(smtp)
    return connection


def _tell_every_refusal(smtp: smtplib.SMTP) -> None:
    """Raise also when only some recipients were refused: smtplib returns them then, and Django drops them."""
    send_mail = smtp.sendmail

    def sendmail(*args: Any, **kwargs: Any) -> dict[str, tuple[int, bytes]]:
        refused = send_mail(*args, **kwargs)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)
        return refused

    smtp.sendmail = sendmail  # type: ignore[method-assign]


def _refusal(code: int, reply: bytes | str) -> Refusal:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return Refusal(code, " ".join(text.split())[:300])
