"""A known browser, in which a user has signed in before, has a signed cookie, and its failures are counted separately.

So an attacker who guesses the password of an account cannot lock its owner out of a browser that the owner has used.
The cookie gives no access by itself. This is OWASP's "device cookie" against password guessing.
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
    """Return the name of the browser if this account has signed in with it before, else ""."""
    try:
        name, whose = signing.loads(request.COOKIES.get(COOKIE, ""), salt=SALT, max_age=LIFE)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return str(name) if whose == _mark(username) else ""


def remember(response: HttpResponseBase, username: str) -> None:
    """Set a cookie with a name for the browser, under which the next failures of this account are counted."""
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
