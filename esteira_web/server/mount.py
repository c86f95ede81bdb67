"""The address below which the pages and the API are: "/", or such as "/esteira/" in another project's urls."""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.urls import NoReverseMatch, get_script_prefix, reverse


def root() -> str:
    """Return that address; it begins and ends with a slash. Without such urls (a worker's), return "/"."""
    return _root(settings.ROOT_URLCONF, get_script_prefix())


@cache
def _root(urlconf: str, script_prefix: str) -> str:
    try:
        return reverse("esteira-jobs", urlconf=urlconf)
    except NoReverseMatch:
        return "/"
