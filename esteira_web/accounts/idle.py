"""A session ends when it was not used for SESSION_IDLE_SECONDS, and not before.

Django counts from the last change of a session. So a session in use is changed from time to time, at most twenty times
in that span: this costs one write each time, not one for each request.
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
    """Must come after Django's session middleware in MIDDLEWARE; it does nothing for a request without a session."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            now = int(time.time())
            if abs(now - request.session.get(KEY, 0)) > settings.SESSION_COOKIE_AGE / PARTS:
                request.session[KEY] = now
        return self.get_response(request)
