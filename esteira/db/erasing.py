"""Delete files: their bytes, then their rows; those of one file at once, or those of many in bounded steps.

A file that is being deleted is hidden first, so no reader gets half of it. If the process dies here, retention finds
the files without a checksum, and continues.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from esteira.db import Db

#: One statement of retention deletes at most this many chunks, 20 MiB.
DELETE_CHUNKS = 80


def delete_some(db: Db, file_ids: list[Any]) -> bool:
    """Delete files, at most 20 MiB of them at a time; return whether that was all.

    The first statement hides them, so that no reader gets half a file; the caller holds their locks.
    """
    if not file_ids:
        return True
    db.fetch(
        """UPDATE esteira_file SET sha256 = '', attached_at = NULL
           WHERE id = ANY(%s) AND (sha256 <> '' OR attached_at IS NOT NULL)""",
        [file_ids],
    )
    gone = db.fetch(
        """DELETE FROM esteira_filechunk WHERE id = ANY(ARRAY(
             SELECT c.id FROM esteira_filechunk c WHERE c.file_id = ANY(%s) LIMIT %s)) RETURNING 1""",
        [file_ids, DELETE_CHUNKS],
    )
    if len(gone) == DELETE_CHUNKS:
        return False
    db.fetch("DELETE FROM esteira_file WHERE id = ANY(%s)", [file_ids])
    return True


def delete(db: Db, file_ids: list[UUID]) -> None:
    """Delete files at once, for a writer that is their only user."""
    db.fetch("DELETE FROM esteira_filechunk WHERE file_id = ANY(%s)", [file_ids])
    db.fetch("DELETE FROM esteira_file WHERE id = ANY(%s)", [file_ids])
