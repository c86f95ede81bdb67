"""Sign-in with limits on failed tries. The limits slow down guessing, and cannot lock out the owner of an account.

Failed tries of the last minutes are counted in the database, so that all web processes share the counts:

- for one name from one address: after ten in five minutes, further tries are refused for a while;
- for one address, with any names: the limit is thirty in five minutes;
- for one name from all addresses: after fifty in an hour, the limit per address is two in five minutes instead of ten.
  So the owner can still sign in from an address without failures, however many addresses guess.

A refused try is not counted as a failure, so a repeat does not extend the refusal. The refusal is sent after a second,
which slows down programs that guess. A browser in which the owner has signed in before is counted separately
(`esteira_web.accounts.known`). A refusal shows how long it lasts, but not whether the name exists.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from esteira.db import DjangoConnection
from esteira.errors import TooManyRequests
from esteira.models import ClockTimestamp
from esteira_web.accounts import hashing, known
from esteira_web.accounts.addresses import address_of
from esteira_web.server.rarely import Rarely

WINDOW = timedelta(minutes=5)
#: The limits of failures in a window: a name from one address; one address; a name under attack from one address.
MAX_FAILURES, MAX_OF_ADDRESS, MAX_UNDER_ATTACK = 10, 30, 2
#: So many failures of a name, from all addresses, count as an attack.
LONG_WINDOW, ATTACK = timedelta(hours=1), 50
BROWSER = "browser:"
#: A refusal is sent after this time; no thread waits meanwhile.
PAUSE_S = 1.0

log = Rarely(logging.getLogger("esteira_web.accounts"))


class LoginFailure(models.Model):
    """A try with a wrong name or password; a try that is still being checked counts too, until it succeeds.

    `address` is the source address; for a known browser it is `browser:` and the name of the browser.
    """

    at = models.DateTimeField(db_default=ClockTimestamp(), db_index=True)
    username = models.CharField(max_length=150)
    address = models.CharField(max_length=64)

    class Meta:
        indexes = [
            models.Index(fields=["username", "at"], name="login_of_name"),
            models.Index(fields=["address", "at"], name="login_of_address"),
        ]


class ThrottledBackend(ModelBackend):
    """Django's own check of name and password, with refusals after too many failures."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if request is None or username is None or password is None:
            return super().authenticate(request, username=username, password=password, **kwargs)
        try:
            with counted(request, username) as this:
                user = super().authenticate(request, username=username, password=password, **kwargs)
                this.failed = user is None
        except TooManyRequests as refused:
            request.sign_in_refused = refused  # type: ignore[attr-defined]
            raise ValidationError(str(refused), code="throttled") from None
        return user


class Try:
    """One try to sign in."""

    failed = False


@contextmanager
def counted(request: HttpRequest, username: str) -> Iterator[Try]:
    """Check a password in this block and set `failed`; raises TooManyRequests before it if a limit is reached."""
    name, source, this = _short(username), _source(request, username), Try()
    # The try is stored before the check, so that tries at the same moment count each other.
    mine = _note(name, source)
    try:
        _refuse_too_many(name, source, mine)
        yield this
    except TooManyRequests as refused:
        _forget(mine)
        log.warning("a password from %s was not checked: %s", source, refused)
        raise
    except BaseException:  # for example, the database is unavailable: this is not a failed try
        _forget(mine)
        raise
    if this.failed:
        log.warning("a wrong name or password from %s", source)
    else:
        _forget(mine)


class SignInMiddleware:
    """Around a sign-in: hashing on the password threads, 429 for a refusal, the cookie of a known browser."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with hashing.serving():
            response = self.get_response(request)
        refused: TooManyRequests | None = getattr(request, "sign_in_refused", None)
        if refused is not None and response.status_code == 200:
            response.status_code = refused.status
            response["Retry-After"] = str(refused.retry_after_s)
            response.pause_s = PAUSE_S  # type: ignore[attr-defined]  # esteira_web.server.asgi reads it
        if name := getattr(request, "signed_in", ""):
            known.remember(response, name)
        return response


def _refuse_too_many(name: str, source: str, mine: int) -> None:
    """Raise TooManyRequests if the other tries reach a limit, with the time until enough of them have expired."""
    asked = {"name": name, "source": source, "mine": mine}
    of_pair, of_few, of_address, attacked = DjangoConnection().fetch(_WAITS, asked)[0]
    waits = (of_pair, of_address, of_few if attacked else None)
    wait_s = max((math.ceil(wait) for wait in waits if wait is not None), default=0)
    if wait_s > 0:
        raise TooManyRequests("too-many-failures", retry_after_s=wait_s)


def _wait(which: str, limit: int) -> str:
    """Return SQL for the seconds until the limit-th newest failure expires; NULL if there are fewer failures."""
    return f"""(SELECT extract(epoch FROM f.at - clock_timestamp())::float8 + {WINDOW.total_seconds()}
      FROM esteira_web_loginfailure f WHERE {which} AND f.id <> %(mine)s
        AND f.at > (SELECT clock_timestamp()) - interval '{WINDOW.total_seconds()} s'
      ORDER BY f.at DESC OFFSET {limit - 1} LIMIT 1)"""


_PAIR = "f.username = %(name)s AND f.address = %(source)s"
_WAITS = f"""SELECT {_wait(_PAIR, MAX_FAILURES)}, {_wait(_PAIR, MAX_UNDER_ATTACK)},
  {_wait("f.address = %(source)s", MAX_OF_ADDRESS)},
  EXISTS (SELECT 1 FROM esteira_web_loginfailure f WHERE f.username = %(name)s AND f.id <> %(mine)s
    AND f.at > (SELECT clock_timestamp()) - interval '{LONG_WINDOW.total_seconds()} s'
    AND f.address NOT LIKE '{BROWSER}%%' AND %(source)s NOT LIKE '{BROWSER}%%'
    OFFSET {ATTACK - 1})"""


def _note(name: str, source: str) -> int:
    LoginFailure.objects.filter(at__lt=ClockTimestamp() - LONG_WINDOW).delete()
    return int(LoginFailure.objects.create(username=name, address=source).pk)


def _forget(mine: int) -> None:
    LoginFailure.objects.filter(pk=mine).delete()


def _short(username: str) -> str:
    return username[:150].replace("\0", "")


def _source(request: HttpRequest, username: str) -> str:
    browser = known.browser_of(request, username)
    return f"{BROWSER}{browser}" if browser else address_of(request)


def _signed_in(request: HttpRequest, user: Any, **_: Any) -> None:
    request.signed_in = user.get_username()  # type: ignore[attr-defined]


user_logged_in.connect(_signed_in, dispatch_uid="esteira_web.accounts")
