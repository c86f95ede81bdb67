"""Who sits at the command line: somebody with a shell on the server may do everything, under their own name."""

from __future__ import annotations

import getpass
import os

from esteira.values.bounds import BY
from esteira_web.accounts.roles import Access, Scope


def access() -> Access:
    """Return the rights of whoever types."""
    return Access(by=who(), key="cli", account="cli", scopes=frozenset(Scope))


def who() -> str:
    """Say who types, for the record of what people did."""
    try:
        return BY.fit(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a container's user need not have a name
        return f"cli:{os.getuid()}"
