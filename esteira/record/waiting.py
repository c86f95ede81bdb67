"""T2 for the lists of a queue, and queries for its waiting jobs, between two moments in an index.

`esteira.keeper.due` chooses the moments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from esteira.db import Db
from esteira.record.publish import DUE, MARKED, VALUE_ERRORS, Published, as_published, mark, mark_each

_NEXT = f"""
  SELECT picked.id, picked.priority, date_part('epoch', picked.run_at) AS due_at
  FROM unnest(%(types)s::text[]) AS t(type)
  CROSS JOIN unnest(%(priorities)s::smallint[], %(floors)s::float8[], %(ceilings)s::float8[])
    AS p(priority, floor, ceiling)
  CROSS JOIN LATERAL (
    SELECT f.id, f.priority, f.run_at FROM esteira_job f
    WHERE f.state = 'queued' AND f.published_at IS NULL AND f.queue = %(queue)s AND f.priority = p.priority
      AND f.type = t.type AND NOT f.in_turn AND f.run_at >= to_timestamp(p.floor)
      AND f.run_at <= to_timestamp(p.ceiling) AND {DUE}
    ORDER BY f.run_at, f.id LIMIT %(limit)s) AS picked
  ORDER BY picked.priority, picked.run_at, picked.id LIMIT %(limit)s
"""

# Rows that could not be locked are returned as well: another keeper may be marking them, and may not finish.
_PUBLISH_DUE = f"""
WITH next AS ({_NEXT}),
{MARKED}
UNION ALL
SELECT n.id, NULL, NULL, n.priority, NULL, NULL, NULL, n.due_at, NULL FROM next n
WHERE n.id NOT IN (SELECT id FROM locked)
"""

_OLDEST = f"""
SELECT p.priority, min(date_part('epoch', one.run_at)) FROM unnest(%(types)s::text[]) AS t(type)
CROSS JOIN unnest(%(priorities)s::smallint[], %(floors)s::float8[], %(ceilings)s::float8[])
  AS p(priority, floor, ceiling)
CROSS JOIN LATERAL (
  SELECT f.run_at FROM esteira_job f
  WHERE f.state = 'queued' AND f.published_at IS NULL AND f.queue = %(queue)s AND f.priority = p.priority
    AND f.type = t.type AND NOT f.in_turn AND f.run_at >= to_timestamp(p.floor)
    AND f.run_at <= to_timestamp(p.ceiling) AND {DUE}
  ORDER BY f.run_at, f.id LIMIT 1) AS one
GROUP BY p.priority
"""

# The lists, among some, that have due jobs waiting: one read of the index for each type.
_BEHIND = f"""
SELECT p.priority FROM unnest(%(priorities)s::smallint[], %(floors)s::float8[]) AS p(priority, floor)
WHERE EXISTS (
  SELECT 1 FROM unnest(%(types)s::text[]) AS t(type)
  CROSS JOIN LATERAL (
    SELECT 1 FROM esteira_job f
    WHERE f.state = 'queued' AND f.published_at IS NULL AND f.queue = %(queue)s AND f.priority = p.priority
      AND f.type = t.type AND NOT f.in_turn AND f.run_at >= to_timestamp(p.floor) AND {DUE}
    LIMIT 1) AS one)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """A slice of the due jobs: those that were marked, and those that another transaction locked."""

    published: list[Published]
    #: For each list, when the oldest of the locked jobs became due: they may still be due.
    held: dict[int, float]
    #: If the slice reached its limit: the list in which it ended, and when its last job became due.
    cut: tuple[int, float] | None


def publish_due(db: Db, *, limit: int, **which: Any) -> Picked:
    """T2: mark the next due jobs of a queue published, most urgent first; each type is its own index range."""
    asked = {**_lists_of(**which), "limit": limit}
    try:
        rows = db.fetch(_PUBLISH_DUE, asked)
        published = as_published([row for row in rows if row[1] is not None])
        found = {row[0]: (row[3], row[7]) for row in rows}
        held = found.keys() - {job.id for job in published}
    except VALUE_ERRORS:
        found = {row[0]: (row[1], row[2]) for row in db.fetch(_NEXT, asked)}
        published, refused = mark_each(db, list(found))
        held = found.keys() - {job.id for job in published} - refused
    oldest: dict[int, float] = {}
    for priority, due_at in (found[one] for one in held):
        oldest[priority] = min(due_at, oldest.get(priority, math.inf))
    return Picked(published=published, held=oldest, cut=max(found.values()) if len(found) >= limit else None)


def _lists_of(
    *,
    queue: str,
    types: Sequence[str],
    priorities: Sequence[int],
    floors: Sequence[float] | None = None,
    ceilings: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return parameters for lists of a queue, and for each the range of due times to read (seconds since 1970)."""
    return {
        "queue": queue,
        "types": list(types),
        "priorities": list(priorities),
        "floors": list(floors or [-math.inf] * len(priorities)),
        "ceilings": list(ceilings or [math.inf] * len(priorities)),
    }


def due(db: Db, *, limit: int, **which: Any) -> list[UUID]:
    """Return the jobs that `publish_due` would mark."""
    return [row[0] for row in db.fetch(_NEXT, {**_lists_of(**which), "limit": limit})]


def oldest(db: Db, **which: Any) -> dict[int, float]:
    """Return for each list with due jobs when the oldest of them became due."""
    return {row[0]: row[1] for row in db.fetch(_OLDEST, _lists_of(**which))}


def publish_these(db: Db, ids: Sequence[UUID]) -> list[Published]:
    """T2: mark jobs published that were due at the last look, unless they moved since."""
    return mark(db, "SELECT unnest(%(ids)s::uuid[]) AS id", {"ids": list(ids)}) if ids else []


def behind(db: Db, **which: Any) -> list[int]:
    """Return the priorities of a queue for which due jobs wait to be published."""
    return [row[0] for row in db.fetch(_BEHIND, _lists_of(**which))]
