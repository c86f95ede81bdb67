"""Derive settings from WEB_URL, the address under which people use the pages, so that one variable is enough."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environ import Env


class Public(NamedTuple):
    """The host of the pages, the origin of their forms, and whether people use https."""

    hosts: list[str]
    origins: list[str]
    tls: bool


def public(url: str) -> Public:
    """Parse WEB_URL; raises ImproperlyConfigured unless it is http:// or https:// with a host and nothing else."""
    if not url:
        return Public([], [], False)
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        parts = urlsplit("")
    more = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        raise ImproperlyConfigured(
            f"WEB_URL must be the address of the pages, such as https://jobs.example.com, not {url}."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Public([host], [f"{parts.scheme}://{parts.netloc}"], parts.scheme == "https")


def yes(said: str, *, otherwise: bool) -> bool:
    """Return a variable as a boolean, with the values that django-environ accepts; `otherwise` if it is empty."""
    return said.lower() in Env.BOOLEAN_TRUE_STRINGS if said else otherwise
