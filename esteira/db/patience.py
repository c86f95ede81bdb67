"""Limit how long a request waits for a lock that another transaction holds.

People and programs get an answer after two seconds, whatever locks another open transaction holds: "try again later"
instead of a request that hangs. The limit is set inside a savepoint and reset after it, so that a caller's own
transaction goes on with its previous limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from psycopg.errors import DeadlockDetected, LockNotAvailable

from esteira.db import Db
from esteira.errors import EsteiraError

PATIENCE_S = 2.0


@contextmanager
def waiting_at_most(db: Db, seconds: float, refusal: Callable[[], EsteiraError]) -> Iterator[None]:
    """Open a transaction or a savepoint; a lock wait in it that is too long, or a deadlock, raises `refusal`."""
    try:
        with db.transaction():
            before = _limit(db, seconds)
            yield
            if before is not None:
                db.fetch("SELECT set_config('lock_timeout', %s, true)", [before])
    except Exception as error:
        if is_held(error):
            raise refusal() from None
        raise


def is_held(error: BaseException) -> bool:
    """Return whether a statement failed because others hold its locks; Django wraps the driver's error."""
    return isinstance(error, LockNotAvailable | DeadlockDetected) or isinstance(
        error.__cause__, LockNotAvailable | DeadlockDetected
    )


def _limit(db: Db, seconds: float) -> str | None:
    """Set the limit for this transaction and return the one before; None if that was shorter, and stays."""
    rows = db.fetch(
        """WITH before AS MATERIALIZED (SELECT current_setting('lock_timeout') AS said)
           SELECT said, set_config('lock_timeout', %s, true) FROM before
           WHERE NOT (said::interval > interval '0' AND said::interval < %s * interval '1 second')""",
        [f"{int(seconds * 1000)}ms", seconds],
    )
    return str(rows[0][0]) if rows else None
