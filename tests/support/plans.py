"""The plan that the core's private connections use: made once for all values, as `plan_cache_mode` asks for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import psycopg

from esteira.db import PrivateConnection

#: A statement that was cancelled stays prepared: a failed transaction cannot remove it.
_NAMES = map("explained_{}".format, itertools.count())


def generic_plan(db: PrivateConnection, sql: str, params: Any = ()) -> dict[str, Any]:
    """Execute a statement in the open transaction; return the plan's root with what each node did.

    EXPLAIN of a statement with its values would show a plan for these values, which is another one.
    """
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        key = match[1] or str(len(numbers))
        return f"${numbers.setdefault(key, len(numbers) + 1)}"

    numbered = re.sub(r"%(?:\((\w+)\))?s", number, sql).replace("%%", "%")
    values = (
        params
        if isinstance(params, Mapping)
        else dict(zip(map(str, range(len(params))), params, strict=True))
    )
    connection = db._open()
    with psycopg.ClientCursor(connection) as cursor:
        given = ", ".join(cursor.mogrify("%s", [values[key]]) for key in numbers)
    name = next(_NAMES)
    connection.execute(f"PREPARE {name} AS {numbered}", prepare=False)
    try:
        call = f"EXECUTE {name}({given})" if numbers else f"EXECUTE {name}"
        rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}", prepare=False).fetchall()
    finally:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            connection.execute(f"DEALLOCATE {name}", prepare=False)
    plan: dict[str, Any] = rows[0][0][0]["Plan"]
    return plan
