"""What follows from the address under which people find the pages, so that one variable says it all."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environ import Env


class Public(NamedTuple):
    """The host that people ask for, the origin of their forms, and whether they come by https."""

    hosts: list[str]
    origins: list[str]
    tls: bool


def public(url: str) -> Public:
    """Take WEB_URL apart; raises ImproperlyConfigured unless it is http:// or https:// with a host and no more."""
    if not url:
        return Public([], [], False)
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for what is no port
    except ValueError:
        parts = urlsplit("")
    more = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        raise ImproperlyConfigured(
            f"WEB_URL must be the address of the pages, such as https://jobs.example.com, and not {url}."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Public([host], [f"{parts.scheme}://{parts.netloc}"], parts.scheme == "https")


def yes(said: str, *, otherwise: bool) -> bool:
    """Return what a variable says, in the words that django-environ knows; `otherwise` if it says nothing."""
    return said.lower() in Env.BOOLEAN_TRUE_STRINGS if said else otherwise
