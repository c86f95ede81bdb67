"""One answer per Idempotency-Key: the key row, the work and its answer are one transaction.

The key's unique index is the lock. A second request waits for the first for at most a second, then gets the stored
answer; if the first fails or its process dies, nothing is stored, and the second does the work. Keys are kept as long
as jobs, at least 24 hours; retention removes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from esteira.db import Db, DjangoConnection
from esteira.db.patience import waiting_at_most
from esteira.errors import IdempotencyInProgress, IdempotencyMismatch
from esteira.values import bounds

PATIENCE_S = 1.0
Answer = dict[str, Any]


def once(scope: str, key: str, body: bytes, work: Callable[[], Answer]) -> tuple[Answer, bool]:
    """Do the work and store its answer, or return the stored answer of (scope, key) and True.

    `work` runs inside the transaction, and an error in it rolls the key back as well. Raises IdempotencyInProgress, or
    IdempotencyMismatch when the key was used with another body.
    """
    bounds.IDEMPOTENCY_KEY.check("idempotency_key", key)
    db, body_hash = DjangoConnection(), hashlib.sha256(body).digest()
    while True:
        with db.transaction():
            row = _take(db, scope, key, body_hash)
            if row is not None:
                answer = work()
                stored = json.dumps(answer, default=str)
                db.fetch("UPDATE esteira_idempotencykey SET answer = %s::jsonb WHERE id = %s", [stored, row])
                return answer, False
        kept = db.fetch(
            "SELECT body_hash, answer::text FROM esteira_idempotencykey WHERE scope = %s AND key = %s",
            [scope, key],
        )
        if kept:  # else retention has just removed it
            return _checked(kept[0][0], kept[0][1], body_hash), True


def is_kept(scope: str, key: str) -> bool:
    """Return whether an answer is stored under (scope, key); a first request that has not ended does not count."""
    return bool(
        DjangoConnection().fetch(
            "SELECT 1 FROM esteira_idempotencykey WHERE scope = %s AND key = %s", [scope, key]
        )
    )


def _take(db: Db, scope: str, key: str, body_hash: bytes) -> int | None:
    """Insert the key row, waiting at most a second for another transaction; None if the key is taken."""
    with waiting_at_most(db, PATIENCE_S, IdempotencyInProgress):
        rows = db.fetch(
            """INSERT INTO esteira_idempotencykey (scope, key, body_hash) VALUES (%s, %s, %s)
               ON CONFLICT DO NOTHING RETURNING id""",
            [scope, key, body_hash],
        )
    return rows[0][0] if rows else None


def _checked(kept_hash: Any, answer: str, body_hash: bytes) -> Answer:
    if bytes(kept_hash) != body_hash:
        raise IdempotencyMismatch
    found: Answer = json.loads(answer)
    return found
