"""Where a request came from, as far as it can be believed.

Behind our own proxy (`BEHIND_TLS`) that is what the proxy has added last to X-Forwarded-For; whoever asks may have
written what stands before it. An IPv6 address counts as its /64, because that is what one customer is given.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

#: A header may be longer; an address, even with brackets, a zone and a port, is not.
LONGEST = 100
NOWHERE = "unknown"


def address_of(request: HttpRequest) -> str:
    """Return a network or address in its one spelling, "unknown" if there is none (a socket file)."""
    seen = _read(str(request.META.get("REMOTE_ADDR", "")))
    if settings.BEHIND_TLS:
        told = str(request.META.get("HTTP_X_FORWARDED_FOR", ""))
        seen = _read(told.rpartition(",")[2]) or seen
    return seen or NOWHERE


def _read(said: str) -> str:
    """Return the address in a text, with or without a port, in brackets or not; nothing if there is none."""
    text = said.strip().strip('"')
    if len(text) > LONGEST:
        return ""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return _counted(found)


def _counted(found: IPv4Address | IPv6Address) -> str:
    if isinstance(found, IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
