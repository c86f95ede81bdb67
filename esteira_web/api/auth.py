"""Authentication of the API: a bearer token, or the browser's session together with its CSRF token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.http import HttpRequest, QueryDict
from ninja.errors import AuthenticationError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from esteira_web.accounts.accepted import accepted
from esteira_web.accounts.addresses import address_of
from esteira_web.accounts.roles import Access, Scope, of_session
from esteira_web.server.problems import Problem, Told


def need(scope: Scope) -> Sequence[Callable[[HttpRequest], Any]]:
    """Return the authenticators that admit callers with this right; they set `request.auth` to the caller's Access."""
    return [BearerToken(scope), Session(scope)]


class BearerToken(HttpBearer):
    """A token of `esteira_web.accounts.tokens`; a wrong one is refused even if the request has a valid session too."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self.scope = scope

    def authenticate(self, request: HttpRequest, token: str) -> Access:
        access = accepted.access_by(token.strip(), partial(address_of, request))
        if access is None:
            raise AuthenticationError
        return access.need(self.scope)


class Session(APIKeyCookie):
    """The session of the pages; a request that changes something needs the header X-CSRFToken."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Access | None:
        if self.param_name not in request.COOKIES:
            return None
        access = of_session(request.user)
        if access is None:
            return None
        # Only the header counts: to find a form field, Django would read the body, which may be a large upload.
        request.POST = QueryDict()
        if check_csrf(request) is not None:
            raise Told(Problem(code="csrf", status=403))
        return access.need(self.scope)

    def authenticate(self, request: HttpRequest, key: str | None) -> Access | None:
        return self(request)
