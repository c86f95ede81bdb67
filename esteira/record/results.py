"""Results, groups, chords and revoked ids of adopted Celery tasks: what Celery keeps in a result backend.

No statement here changes a job. A stored success is never overwritten, because a lost process may report a failure
later. A part of a chord is counted once, however often it ends: the row of the chord is locked while one is counted,
and the transaction that stores the last part sends the body. If the process dies before its commit, the part is
counted when it ends again.
"""

from __future__ import annotations

from collections.abc import Sequence

from esteira.db import Db

_STORE = """
INSERT INTO esteira_taskresult AS r (task_id, state, payload, expires_at)
VALUES (%(task_id)s, %(state)s, %(payload)s, clock_timestamp() + %(keep)s::float8 * interval '1 second')
ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, payload = excluded.payload,
  expires_at = excluded.expires_at
WHERE r.state <> 'SUCCESS' OR r.expires_at <= clock_timestamp()
"""


def store_result(db: Db, task_id: str, state: str, payload: bytes, keep_s: float | None) -> None:
    """Store the state and result of a task, unless it has succeeded already; without `keep_s` it never expires."""
    db.fetch(_STORE, {"task_id": task_id, "state": state, "payload": payload, "keep": keep_s})


def forget_result(db: Db, task_id: str) -> None:
    db.fetch("DELETE FROM esteira_taskresult WHERE task_id = %(task_id)s", {"task_id": task_id})


_RESULTS = """
SELECT task_id, payload FROM esteira_taskresult
WHERE task_id = ANY(%(task_ids)s) AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""


def results(db: Db, task_ids: Sequence[str]) -> dict[str, bytes]:
    """Return what is stored for some tasks."""
    return {row[0]: bytes(row[1]) for row in db.fetch(_RESULTS, {"task_ids": list(task_ids)})}


_SAVE_GROUP = """
INSERT INTO esteira_taskgroup (group_id, payload, expires_at)
VALUES (%(group_id)s, %(payload)s, clock_timestamp() + %(keep)s::float8 * interval '1 second')
ON CONFLICT (group_id) DO UPDATE SET payload = excluded.payload, expires_at = excluded.expires_at
"""


def save_group(db: Db, group_id: str, payload: bytes, keep_s: float | None) -> None:
    db.fetch(_SAVE_GROUP, {"group_id": group_id, "payload": payload, "keep": keep_s})


def group(db: Db, group_id: str) -> bytes | None:
    rows = db.fetch(
        """SELECT payload FROM esteira_taskgroup WHERE group_id = %(group_id)s
           AND (expires_at IS NULL OR expires_at > clock_timestamp())""",
        {"group_id": group_id},
    )
    return bytes(rows[0][0]) if rows else None


def delete_group(db: Db, group_id: str) -> None:
    db.fetch("DELETE FROM esteira_taskgroup WHERE group_id = %(group_id)s", {"group_id": group_id})


_CHORD = """
INSERT INTO esteira_taskchord AS c (chord_id, size, added, expires_at)
VALUES (%(chord_id)s, %(size)s, %(added)s, clock_timestamp() + %(keep)s::float8 * interval '1 second')
ON CONFLICT (chord_id) DO UPDATE SET size = coalesce(excluded.size, c.size), added = c.added + excluded.added,
  expires_at = excluded.expires_at
"""
_PART = """
WITH part AS (
  INSERT INTO esteira_taskchordpart (chord_id, task_id, place, payload)
  VALUES (%(chord_id)s, %(task_id)s, %(place)s, %(payload)s) ON CONFLICT DO NOTHING RETURNING 1)
UPDATE esteira_taskchord c SET counted = c.counted + (SELECT count(*) FROM part)
WHERE c.chord_id = %(chord_id)s RETURNING NOT c.ended AND c.counted >= c.size + c.added
"""
_PARTS = """
SELECT payload FROM esteira_taskchordpart WHERE chord_id = %(chord_id)s ORDER BY place NULLS LAST, id
"""


def resize_chord(
    db: Db, chord_id: str, *, size: int | None = None, added: int = 0, keep_s: float | None
) -> None:
    """Store how many parts a chord has, or that it has more; lock its row until the transaction ends."""
    db.fetch(_CHORD, {"chord_id": chord_id, "size": size, "added": added, "keep": keep_s})


def add_part(
    db: Db, chord_id: str, task_id: str, place: int | None, payload: bytes, *, keep_s: float | None
) -> bool:
    """Count a part of a chord; return whether all are there and its body must be sent in this transaction.

    A repeated part changes nothing. The lock on the chord's row orders the transactions of its parts.
    """
    resize_chord(db, chord_id, keep_s=keep_s)
    asked = {"chord_id": chord_id, "task_id": task_id, "place": place, "payload": payload}
    return bool(db.fetch(_PART, asked)[0][0])


def end_chord(db: Db, chord_id: str) -> list[bytes]:
    """Note that the body of a chord is sent, or has failed; return the parts in the order of the header."""
    db.fetch(
        "UPDATE esteira_taskchord SET ended = true WHERE chord_id = %(chord_id)s", {"chord_id": chord_id}
    )
    return [bytes(row[0]) for row in db.fetch(_PARTS, {"chord_id": chord_id})]


_REVOKE = """
INSERT INTO esteira_taskrevoked (task_id, expires_at)
SELECT v.task_id, clock_timestamp() + %(keep)s::float8 * interval '1 second'
FROM unnest(%(task_ids)s::text[]) AS v(task_id) ON CONFLICT DO NOTHING
"""


def revoke(db: Db, task_ids: Sequence[str], keep_s: float) -> None:
    """Note ids that no task was sent under: one that is sent later is cancelled before it starts."""
    db.fetch(_REVOKE, {"task_ids": list(task_ids), "keep": keep_s})
