"""What sends mail while EMAIL_URL is empty: nothing does, and whoever tries is told at once."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

SENTENCE = "No mail server is configured: set EMAIL_URL, for instance to smtp+tls://user:password@mail.example.com:587."


class NoServer(BaseEmailBackend):
    """Django's way to the mail server where there is none; raises ImproperlyConfigured for every message."""

    def open(self) -> bool:
        raise ImproperlyConfigured(SENTENCE)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        raise ImproperlyConfigured(SENTENCE)
