"""Signing in, slowed down for those who guess: ten failures in five minutes close the door for that name and address.

Failures are counted in the database, so that every web process counts the same ones. The answer is the same as for a
wrong password: it does not tell whether the name exists.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest

from esteira.models import ClockTimestamp

WINDOW = timedelta(minutes=5)
MAX_FAILURES = 10

log = logging.getLogger("web.login")


class LoginFailure(models.Model):
    """Somebody gave a wrong name or password."""

    at = models.DateTimeField(db_default=ClockTimestamp(), db_index=True)
    username = models.CharField(max_length=150)
    address = models.CharField(max_length=64)


class ThrottledBackend(ModelBackend):
    """Django's own check of name and password, closed for a while to those who failed too often."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if request is not None and username is not None and _too_many(username, _address(request)):
            raise PermissionDenied
        return super().authenticate(request, username=username, password=password, **kwargs)


def _too_many(username: str, address: str) -> bool:
    since = ClockTimestamp() - WINDOW
    failures = LoginFailure.objects.filter(at__gt=since, username=_short(username), address=address)
    return failures.count() >= MAX_FAILURES


def _remember(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    if request is None:
        return
    username, address = _short(str(credentials.get("username", ""))), _address(request)
    LoginFailure.objects.filter(at__lt=ClockTimestamp() - 12 * WINDOW).delete()
    LoginFailure.objects.create(username=username, address=address)
    log.warning("failed sign-in from %s", address)


def _short(username: str) -> str:
    return username[:150].replace("\0", "")


def _address(request: HttpRequest) -> str:
    """Return where a request came from; behind a proxy of ours that is what the proxy itself has added last."""
    seen = str(request.META.get("REMOTE_ADDR", ""))
    if settings.BEHIND_TLS:
        seen = str(request.META.get("HTTP_X_FORWARDED_FOR", seen)).rsplit(",", 1)[-1]
    return seen.strip()[:64]


user_login_failed.connect(_remember, dispatch_uid="web.login")
