"""A browser in which somebody has signed in before: it carries a signed cookie, and its failures are counted apart.

So whoever guesses an account's password, from wherever, cannot lock its owner out of a browser that the owner has used.
The cookie opens nothing by itself. This is OWASP's "device cookie" against guessing of passwords.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from django.conf import settings
from django.core import signing
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.crypto import salted_hmac

COOKIE = "esteira_known"
SALT = "esteira_web.accounts.known"
LIFE = timedelta(days=180)


def browser_of(request: HttpRequest, username: str) -> str:
    """Return the name of the browser if this account has signed in with it before, else nothing."""
    try:
        name, whose = signing.loads(request.COOKIES.get(COOKIE, ""), salt=SALT, max_age=LIFE)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return str(name) if whose == _mark(username) else ""


def remember(response: HttpResponseBase, username: str) -> None:
    """Give the browser a name under which the next failures of this account are counted."""
    response.set_cookie(
        COOKIE,
        signing.dumps([secrets.token_hex(8), _mark(username)], salt=SALT),
        max_age=LIFE,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _mark(username: str) -> str:
    return salted_hmac(SALT, username, algorithm="sha256").hexdigest()[:32]
