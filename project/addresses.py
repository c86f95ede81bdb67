"""Check the addresses in settings; the errors are correct for `make run`, compose and Kubernetes alike.

An error never contains a part of the address, because it may be a part of the password.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured


def checked(name: str, address: str) -> str:
    """Return the address if it can be parsed; raises ImproperlyConfigured, such as for a password without encoding."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ImproperlyConfigured(_unreadable(name)) from None
    if "@" in parts.path or parts.fragment:
        raise ImproperlyConfigured(_unreadable(name))
    return address


def _unreadable(name: str) -> str:
    return (
        f"{name} is not an address: its port is not a number, or it is incomplete. A password in it must be "
        "percent-encoded: %2F is /, %40 is @, %3A is :, %23 is #, %3F is ?, %25 is %."
    )


def not_set(name: str) -> str:
    """Return the error for a missing setting, with the ways to set it."""
    return (
        f"{name} is not set. `make run`, compose and Kubernetes set it: start one of them first. A process that you "
        f"start by yourself needs {name}, or {name}_FILE with the path of a file (see .env.example)."
    )
