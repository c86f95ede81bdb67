"""Run a job type's own code in the keeper, so that every exception from it counts as that type's failure only.

Checking parameters and making a unique key run code of a type's author, and a database error of that code looks like
one of Esteira's. If it were taken for an unavailable database, it would end the turn, in each turn, as long as the
type's code fails. So `run` raises no such error, and no exception that ends a process. Only Ctrl-C passes.

Such code may read through Django's connections. Beat has no requests, so Django does not close a broken or old
connection there; `run` does.
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
    """A type's own code raised an exception; the text describes it."""


def run(do: Callable[[], T]) -> T:
    """Run a type's own code; raises TypeFailed, or the EsteiraError with which the core refuses a value."""
    try:
        close_old_connections()
        return do()
    except KeyboardInterrupt:
        raise
    except EsteiraError:
        sessions.close()
        raise
    except BaseException as error:  # SystemExit too: a validator may call a library that exits
        sessions.close()
        raise TypeFailed(f"the type's own code failed with {said(error)}") from error
