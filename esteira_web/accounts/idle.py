"""A session ends when nobody has used it for SESSION_IDLE_SECONDS, and not before.

Django counts from the last change of a session. So a session in use is changed now and then, at most twenty times in
that span: one write more for each of them, not for each request.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

KEY = "used"
PARTS = 20


class IdleMiddleware:
    """Put it inside Django's sessions; a request without one is not touched."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            now = int(time.time())
            if abs(now - request.session.get(KEY, 0)) > settings.SESSION_COOKIE_AGE / PARTS:
                request.session[KEY] = now
        return self.get_response(request)
