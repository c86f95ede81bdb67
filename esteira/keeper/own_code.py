"""Running a job type's own code in the keeper: whatever it raises is that type's failure, and nobody else's.

The check of parameters and the making of a unique key run code of a type's author, and a database error of theirs looks
like one of ours: taken for an absence of our database, it would end the turn, in each turn, for as long as the type
asks. So what leaves here is none of those, and none that ends a process. Only Ctrl-C passes.

Such code may read through Django's connections. Beat has no requests, so nobody else closes one that is broken or old.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import close_old_connections

from esteira.db import sessions
from esteira.errors import EsteiraError
from esteira.keeper.turns import said

T = TypeVar("T")


class TypeFailed(Exception):
    """A type's own code raised something; the text says what."""


def run(do: Callable[[], T]) -> T:
    """Run code of a type's; raises TypeFailed, or the EsteiraError by which the core itself refuses a value."""
    try:
        close_old_connections()
        return do()
    except KeyboardInterrupt:
        raise
    except EsteiraError:
        sessions.close()
        raise
    except BaseException as error:  # SystemExit too: a validator may call a library that leaves
        sessions.close()
        raise TypeFailed(f"the type's own code failed with {said(error)}") from error
