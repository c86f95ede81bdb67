"""What is wrong with an address that a setting holds, in a sentence that is true wherever it is read.

The sentences never repeat a part of the address: it may be a part of the password.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured


def checked(name: str, address: str) -> str:
    """Return an address that can be taken apart; raises ImproperlyConfigured if its password is not encoded."""
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
        f"{name} is not an address: its port is no number, or it ends too early. A password in it is percent-encoded: "
        "%2F is /, %40 is @, %3A is :, %23 is #, %3F is ?, %25 is %."
    )


def not_set(name: str) -> str:
    """Say that a setting is missing, and who gives it."""
    return (
        f"{name} is not set. `make run`, compose and Kubernetes make it: start one of them first. A process that you "
        f"start by yourself needs {name}, or {name}_FILE with the path of a file (see .env.example)."
    )
