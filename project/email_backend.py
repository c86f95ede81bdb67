"""The mail backend while EMAIL_URL is empty: it sends nothing and raises an error at once."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

SENTENCE = "No mail server is configured: set EMAIL_URL, for example to smtp+tls://user:password@mail.example.com:587."


class NoServer(BaseEmailBackend):
    """Django's mail backend without a mail server; raises ImproperlyConfigured for every message."""

    def open(self) -> bool:
        raise ImproperlyConfigured(SENTENCE)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        raise ImproperlyConfigured(SENTENCE)
