"""The caller at the command line: a person with a shell on the server may do everything, under their own name."""

from __future__ import annotations

import getpass
import os

from esteira.values.bounds import BY
from esteira_web.accounts.roles import Access, Scope


def access() -> Access:
    """Return the rights of the caller: all of them."""
    return Access(by=who(), key="cli", account="cli", scopes=frozenset(Scope))


def who() -> str:
    """Return the caller's name, for the record of what people did."""
    try:
        return BY.fit(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # the user of a container may have no name
        return f"cli:{os.getuid()}"
