"""Read rows of tasks: by the ids that callers know, and those whose ends are not settled; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from esteira.db import Db


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The newest row of a task, for the states that no result is stored for."""

    id: UUID
    state: str
    kind: str
    error: str
    message: str
    forced: bool
    started: bool
    settled: bool
    type: str
    timeout_s: float


_READ = """t.id, t.state, coalesce(t.error ->> 'kind', ''), coalesce(t.error ->> 'type', ''),
  coalesce(t.error ->> 'message', ''), t.cancel_force, t.started_at IS NOT NULL, t.settled, t.type, t.timeout_s"""
_ROWS = f"""
SELECT DISTINCT ON (t.task_id) t.task_id, {_READ} FROM esteira_job t
WHERE t.task_id = ANY(%(task_ids)s::text[]) AND t.task_id IS NOT NULL
ORDER BY t.task_id, t.state IN ('queued', 'running') DESC, t.id DESC
"""


def rows_of(db: Db, task_ids: Sequence[str]) -> dict[str, Row]:
    """Return for each task its row, preferably one that has not ended."""
    found = db.fetch(_ROWS, {"task_ids": list(task_ids)})
    return {row[0]: _as_row(row[1:]) for row in found}


def row_of(db: Db, job_id: UUID) -> Row | None:
    """Return the row with this id."""
    found = db.fetch(f"SELECT {_READ} FROM esteira_job t WHERE t.id = %(id)s", {"id": job_id})
    return _as_row(found[0]) if found else None


def _as_row(values: Sequence[Any]) -> Row:
    return Row(**dict(zip((field.name for field in fields(Row)), values, strict=True)))


_UNSETTLED = """
SELECT j.id, j.task_id FROM esteira_job j
WHERE j.state IN ('cancelled', 'dead', 'expired', 'failed') AND j.message IS NOT NULL AND NOT j.settled
  AND j.id <> ALL(%(skipped)s::uuid[])
ORDER BY j.finished_at LIMIT %(limit)s
"""


def unsettled(db: Db, *, limit: int, skipped: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """Return tasks that ended outside their attempt, oldest first: the ids of their rows, and their own."""
    rows = db.fetch(_UNSETTLED, {"limit": limit, "skipped": list(skipped)})
    return [(row[0], row[1]) for row in rows]
