"""The connection to the mail server: one connection for many messages, with every refusal recorded.

If the server closes the connection at one recipient, the others must still get the message. A used connection that
breaks is opened again; if a new connection breaks at a recipient, this recipient is deferred and the others go on.
"""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend

from esteira import GiveUp, Retry
from jobs.email._addresses import ascii_domain, bare
from jobs.email._transaction import Broken, Refusal, Unclear, as_refusal, hand_over

PERMANENT = 500
#: After so many broken new connections in a row, the cause is the server and not a recipient.
MOST_BREAKS = 10
#: A message that may have been accepted is sent again only after this time, so that a slow server can finish.
UNCLEAR_PAUSE_S = 15 * 60


class ConnectionLost(Retry):
    """The connection to the mail server broke, and no recipient was the cause."""


class PerhapsTaken(Retry):
    """The mail server has received the whole message and has not answered whether it accepts it."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"The mail server received the whole message, but did not answer whether it accepts it ({said}). It may "
            f"have accepted it, so the next try is in {UNCLEAR_PAUSE_S // 60} minutes, with the same Message-ID.",
            after=UNCLEAR_PAUSE_S,
        )


class Post:
    """One connection to the mail server for any number of messages, opened for the first one."""

    def __init__(self) -> None:
        self._connection: BaseEmailBackend | None = None
        self._breaks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def in_vain(self) -> bool:
        """True if so many new connections broke in a row that no further message should be tried."""
        return self._breaks >= MOST_BREAKS

    def deliver(self, message: EmailMultiAlternatives, people: Sequence[str]) -> dict[str, Refusal]:
        """Send a message to these checked addresses; return those that the server refused or deferred (bare).

        Raises Retry if the server is unavailable, its subclass PerhapsTaken if the message may have been accepted, and
        GiveUp if the server refuses everything.
        """
        refused: dict[str, Refusal] = {}
        while left := [one for one in map(bare, people) if one not in refused]:
            new = self._connect()
            try:
                self._hand_over(message, left, refused)
            except Broken as trouble:
                self._drop()
                idled_out = not new and not (trouble.silent and trouble.at)
                if not idled_out:
                    self._blame(trouble, left, refused)
            except Unclear as trouble:
                self._drop()
                self._breaks += 1
                raise PerhapsTaken(str(trouble)) from trouble
            else:
                self._breaks = 0
                break
        return refused

    def _blame(self, trouble: Broken, left: list[str], refused: dict[str, Refusal]) -> None:
        self._breaks += 1
        if not trouble.at or (self.in_vain and not trouble.welcome):
            raise ConnectionLost(str(trouble)) from trouble
        put_off = [one for one in left if one not in trouble.welcome] if self.in_vain else trouble.at
        for one in put_off:
            refused.setdefault(one, Refusal(0, str(trouble)))

    def _hand_over(
        self, message: EmailMultiAlternatives, people: list[str], refused: dict[str, Refusal]
    ) -> None:
        connection = self._connection
        smtp = getattr(connection, "connection", None)
        if isinstance(smtp, smtplib.SMTP):
            content = message.message().as_bytes(linesep="\r\n")  # type: ignore[call-arg]  # Django's own message
            hand_over(smtp, bare(message.from_email), people, content, refused)
            return
        assert connection is not None
        try:
            connection.send_messages([message])
        except OSError as error:
            raise Broken(f"The mail could not be sent: {error}") from error

    def _connect(self) -> bool:
        """Open a connection if there is none; return whether it is a new one."""
        smtp = getattr(self._connection, "connection", None)
        if isinstance(smtp, smtplib.SMTP) and smtp.sock is None:
            self._drop()
        if self._connection is not None:
            return False
        self._connection = _opened()
        return True

    def _drop(self) -> None:
        """Close the connection without QUIT, because the server would not answer it."""
        smtp = getattr(self._connection, "connection", None)
        if isinstance(smtp, smtplib.SMTP):
            smtp.close()
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):  # accepted messages stay accepted if QUIT fails
                connection.close()


def _opened() -> BaseEmailBackend:
    connection: BaseEmailBackend = get_connection()
    try:
        if isinstance(connection, EmailBackend):
            connection.host = ascii_domain(connection.host)
        connection.open()
        smtp = getattr(connection, "connection", None)
        if isinstance(smtp, smtplib.SMTP):
            smtp.ehlo_or_helo_if_needed()
    except ImproperlyConfigured as error:
        raise GiveUp(f"{error} Then retry this job.") from error
    except smtplib.SMTPResponseException as error:
        refusal = as_refusal(error.smtp_code, error.smtp_error)
        if refusal.code >= PERMANENT:
            raise GiveUp(f"The mail server refuses this client ({refusal}). Check EMAIL_URL.") from error
        raise Retry(f"The mail server defers this client ({refusal}).") from error
    except smtplib.SMTPNotSupportedError as error:
        raise GiveUp(f"The mail server does not support a part of EMAIL_URL: {error}") from error
    except OSError as error:
        raise Retry(f"The mail server does not answer: {error}") from error
    except ValueError as error:
        raise GiveUp(f"EMAIL_URL: {error}") from error
    return connection
