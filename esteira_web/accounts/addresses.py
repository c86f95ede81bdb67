"""The source address of a request, as far as it can be trusted.

Behind the installation's own proxy (`BEHIND_TLS`) it is the last address in X-Forwarded-For, which the proxy has added;
a client can forge the addresses before it. An IPv6 address counts as its /64, because a provider gives a customer that.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

#: The longest text that can be an address, with brackets, a zone and a port.
LONGEST = 100
NOWHERE = "unknown"


def address_of(request: HttpRequest) -> str:
    """Return a network or address in its canonical form; "unknown" if there is none (a socket file)."""
    seen = _read(str(request.META.get("REMOTE_ADDR", "")))
    if settings.ESTEIRA_BEHIND_TLS:
        told = str(request.META.get("HTTP_X_FORWARDED_FOR", ""))
        seen = _read(told.rpartition(",")[2]) or seen
    return seen or NOWHERE


def _read(said: str) -> str:
    """Return the address in a text, with or without a port, with or without brackets; "" if there is none."""
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
