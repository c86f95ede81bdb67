"""The outermost middleware: headers and error documents of every answer.

Every answer has a request id (the caller's, if it is safe, else a new one), a strict Content-Security-Policy and no
caching; under /api/, every error is a problem document. A database that does not answer is 503 with Retry-After
everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.core.exceptions import DisallowedHost, RequestDataTooBig, ValidationError
from django.db.models import Field, IntegerField
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from esteira.values.bounds import clean, is_digits
from esteira_web.server import problems
from esteira_web.server.problems import BY_STATUS, CONTENT_TYPE, Problem
from esteira_web.server.query_strings import not_text
from esteira_web.server.request_id import HEADER, current, request_id_of

API = "/api/"
STATIC = "/static/"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

Next = Callable[[HttpRequest], HttpResponseBase]


class EdgeMiddleware:
    """Must be first in MIDDLEWARE: it also changes the answers of other middleware, and Django's error pages."""

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request_id = current.get() or request_id_of(request.headers.get(HEADER, ""))
        before = current.set(request_id)
        try:
            return self._answer(request, request_id)
        finally:
            current.reset(before)

    def _answer(self, request: HttpRequest, request_id: str) -> HttpResponseBase:
        request.id = request_id  # type: ignore[attr-defined]
        _drop_odd_cookies(request)
        head = request.method == "HEAD"
        if head:
            request.method = "GET"  # views that support GET also answer HEAD, with the same headers
        response = _refused_query(request) or self.get_response(request)
        if response.status_code >= 400 and is_api(request):
            response = _as_problem(request, response)
        response[HEADER] = request_id
        response.headers.setdefault("Content-Security-Policy", POLICY)
        if not request.path.startswith(STATIC):
            response.headers.setdefault("Cache-Control", "private, no-store")
        return _without_body(request, response) if head else response

    def process_view(
        self, request: HttpRequest, view_func: Callable[..., HttpResponseBase], *rest: object
    ) -> HttpResponse | None:
        """Refuse ids of rows that no page of the admin can offer: Django's query for them would fail."""
        model_admin = getattr(view_func, "model_admin", None)
        if model_admin is None or request.method != "POST":
            return None
        key = model_admin.model._meta.pk
        if all(_could_be(key, chosen) for chosen in request.POST.getlist("_selected_action")):
            return None
        return tell(request, problems.worded("not-a-row", code="bad-request", status=400))

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer an exception of a view; exceptions of middleware reach `server_error`."""
        problem = problems.of(error)
        return None if problem is None else tell(request, problem)


class ClosedByDefaultMiddleware(LoginRequiredMiddleware):
    """Django's "every page needs a login"; the API authenticates its callers itself, and answers 401."""

    def process_view(
        self, request: HttpRequest, view_func: Callable[..., HttpResponseBase], *rest: object
    ) -> HttpResponseBase | None:
        if is_api(request):
            return None
        return super().process_view(request, view_func, *rest)  # type: ignore[arg-type]


def is_api(request: HttpRequest) -> bool:
    """Return whether the caller is a program: every address below /api, also a wrong one."""
    return f"/{request.path.lstrip('/')}/".startswith(API)


def _refused_query(request: HttpRequest) -> HttpResponse | None:
    """Refuse a query of a page that is not text, before a view uses it; the API reports such mistakes with others."""
    if is_api(request) or not (found := not_text(request.META.get("QUERY_STRING", ""))):
        return None
    return tell(request, problems.invalid(found))


def _could_be(key: Field[Any, Any], chosen: str) -> bool:
    if isinstance(key, IntegerField) and not is_digits(chosen):
        return False
    try:
        key.to_python(chosen)
    except ValidationError:
        return False
    return clean(chosen) == chosen


def _drop_odd_cookies(request: HttpRequest) -> None:
    """Drop cookies with a NUL (a quoted cookie can hold one): Django's query for such a session would fail."""
    for name in [name for name, value in request.COOKIES.items() if clean(value) != value]:
        del request.COOKIES[name]


def is_head(request: HttpRequest) -> bool:
    """Return whether the request is HEAD; views see GET in both cases."""
    return bool(request.META["REQUEST_METHOD"] == "HEAD")


def _without_body(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Keep only the headers of an answer, with the length of the body of GET."""
    request.method = "HEAD"
    if isinstance(response, StreamingHttpResponse):
        response.streaming_content = iter(())
    elif isinstance(response, HttpResponse):
        response.headers.setdefault("Content-Length", str(len(response.content)))
        response.content = b""
    return response


def tell(request: HttpRequest, problem: Problem) -> HttpResponse:
    """Answer with a problem: a document for the API, a page for people."""
    if is_api(request):
        return problem.response(request)
    # With a refused host name, every link on the page would be refused too.
    shown = {"problem": problem, "title": _heading(problem), "links": problem.code != "unknown-host"}
    response = render(request, "esteira_web/problem.html", shown, status=problem.status)
    for name, value in problem.headers.items():
        response[name] = value
    return response


def _heading(problem: Problem) -> str:
    headings = {
        403: "Not allowed",
        404: "Not found",
        409: "Not possible now",
        429: "Too many requests",
        503: "Not available",
    }
    return headings.get(problem.status, "The request failed")


def _as_problem(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if response.headers.get("Content-Type", "").startswith(CONTENT_TYPE):
        return response
    kept = {
        name: response[name]
        for name in ("Retry-After", "WWW-Authenticate", "ETag")
        if response.has_header(name)
    }
    if response.has_header("Allow"):
        kept["Allow"] = ", ".join(sorted(response["Allow"].split(", ")))
    response.close()
    code = BY_STATUS.get(response.status_code, "internal" if response.status_code >= 500 else "bad-request")
    return Problem(code=code, status=response.status_code, headers=kept).response(request)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return tell(request, problems.worded("name-not-served", code="unknown-host", status=400))
    if isinstance(exception, RequestDataTooBig):
        return tell(request, problems.body_too_large())
    return tell(request, Problem(code="bad-request", status=400))


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return tell(request, Problem(code="forbidden", status=403))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return tell(request, problems.worded("old-form", code="csrf", status=403))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return tell(request, Problem(code="not-found", status=404))


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer an exception outside of views: sessions and accounts, for example, are in the database too."""
    error = sys.exc_info()[1]
    problem = problems.of(error) if error is not None else None
    return tell(request, problem or Problem(code="internal", status=500))
