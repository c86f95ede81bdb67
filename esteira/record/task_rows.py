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


_FIELDS = "state, error, cancel_force, started_at, created_at, settled, type, timeout_s"
_READ = """t.id, t.state, coalesce(t.error ->> 'kind', ''), coalesce(t.error ->> 'type', ''),
  coalesce(t.error ->> 'message', ''), t.cancel_force, t.started_at IS NOT NULL, t.settled, t.type, t.timeout_s"""
_ROWS = f"""
SELECT DISTINCT ON (t.named) t.named, {_READ}
FROM (
  SELECT id::text AS named, id, {_FIELDS} FROM esteira_job
    WHERE id = ANY(%(ids)s::uuid[]) AND message IS NOT NULL AND task_id IS NULL
  UNION ALL
  SELECT task_id, id, {_FIELDS} FROM esteira_job WHERE task_id = ANY(%(task_ids)s::text[]) AND task_id IS NOT NULL) t
ORDER BY t.named, t.state IN ('queued', 'running') DESC, t.created_at DESC
"""


def rows_of(db: Db, task_ids: Sequence[str]) -> dict[str, Row]:
    """Return for each task its row, preferably one that has not ended."""
    found = db.fetch(_ROWS, {"ids": _uuids(task_ids), "task_ids": list(task_ids)})
    return {row[0]: _as_row(row[1:]) for row in found}


def row_of(db: Db, job_id: UUID) -> Row | None:
    """Return the row with this id."""
    found = db.fetch(f"SELECT {_READ} FROM esteira_job t WHERE t.id = %(id)s", {"id": job_id})
    return _as_row(found[0]) if found else None


def _as_row(values: Sequence[Any]) -> Row:
    return Row(**dict(zip((field.name for field in fields(Row)), values, strict=True)))


def _uuids(task_ids: Sequence[str]) -> list[UUID]:
    found = []
    for one in task_ids:
        try:
            found.append(UUID(one))
        except ValueError:
            continue
    return found


_UNSETTLED = """
SELECT j.id, coalesce(j.task_id, j.id::text) FROM esteira_job j
WHERE j.state IN ('cancelled', 'dead', 'expired', 'failed') AND j.message IS NOT NULL AND NOT j.settled
  AND j.id <> ALL(%(skipped)s::uuid[])
ORDER BY j.finished_at LIMIT %(limit)s
"""


def unsettled(db: Db, *, limit: int, skipped: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """Return tasks that ended outside their attempt, oldest first: the ids of their rows, and their own."""
    rows = db.fetch(_UNSETTLED, {"limit": limit, "skipped": list(skipped)})
    return [(row[0], row[1]) for row in rows]
