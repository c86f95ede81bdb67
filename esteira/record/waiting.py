"""Looks at what waits for the feed, between two moments of a list's index; see `esteira.due`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from esteira.db import Db
from esteira.record.insert import DUE, NEXT, Fed, lists_of, mark

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

# Which of some lists has due jobs waiting: one look into the index for each type.
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


def due(db: Db, *, limit: int, **which: Any) -> list[UUID]:
    """Return what `insert.feed` would mark."""
    return [row[0] for row in db.fetch(NEXT, {**lists_of(**which), "limit": limit})]


def oldest(db: Db, **which: Any) -> dict[int, float]:
    """Return for each list with due jobs when the oldest of them became due."""
    return {row[0]: row[1] for row in db.fetch(_OLDEST, lists_of(**which))}


def feed_these(db: Db, ids: Sequence[UUID]) -> list[Fed]:
    """T2: mark jobs published that were due a moment ago, unless they moved since."""
    return mark(db, "SELECT unnest(%(ids)s::uuid[]) AS id", {"ids": list(ids)}) if ids else []


def behind(db: Db, **which: Any) -> list[int]:
    """Return the priorities of a queue with due jobs that wait for the feed."""
    return [row[0] for row in db.fetch(_BEHIND, lists_of(**which))]
