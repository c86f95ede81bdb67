"""Views that can be mounted in any project: each brings what it needs of this site's middleware.

A project that has EdgeMiddleware in MIDDLEWARE, as this one has, gets nothing twice. In another project, its own pages
keep their headers, their error pages and their rules of who may see them; only the views below the mounted address get
a request id, a strict Content-Security-Policy and problem documents. Each view commits by itself, also with
ATOMIC_REQUESTS: an answer of the API says what was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver

from esteira_web.server.middleware import EdgeMiddleware, has_edge

View = Callable[..., HttpResponseBase]


def mounted(patterns: Iterable[URLPattern | URLResolver]) -> list[URLPattern | URLResolver]:
    """Wrap the views of these patterns, also of included ones, and return the patterns."""
    found = list(patterns)
    for pattern in found:
        if isinstance(pattern, URLPattern):
            pattern.callback = _edged(pattern.callback)
        else:
            mounted(pattern.url_patterns)
    return found


def _edged(view: View) -> View:
    @wraps(view)
    def served(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if has_edge(request):
            return view(request, *args, **kwargs)

        def answer(request: HttpRequest) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except Exception as error:  # as Django does before it asks a middleware's process_exception
                if (response := edge.process_exception(request, error)) is None:
                    raise
                return response

        edge = EdgeMiddleware(answer)
        return edge(request)

    return transaction.non_atomic_requests(served)
