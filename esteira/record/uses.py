"""Note the files that a job's parameters name when the job is stored, so that retention does not delete them.

Every file id in the text of the parameters counts, at any depth. One note too many only delays the deletion of the
file. Only job types that declare a `FileRef` are searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from esteira.db import Db
from esteira.job_types.registry import registry

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Stored(Protocol):
    """The fields of a job that are read here."""

    @property
    def id(self) -> UUID | None: ...
    @property
    def type(self) -> str: ...
    @property
    def params(self) -> str: ...


def naming_files(jobs: Sequence[Stored]) -> list[Stored]:
    """Return the jobs of types that take files."""
    types = {name for name in {job.type for job in jobs} if registry.takes_files(name)}
    return [job for job in jobs if job.type in types] if types else []


_NOTE = """
INSERT INTO esteira_fileuse (job_id, file_id)
SELECT v.job_id, f.id FROM unnest(%(jobs)s::uuid[], %(files)s::uuid[]) AS v(job_id, file_id)
JOIN esteira_file f ON f.id = v.file_id
WHERE f.id = ANY(%(files)s::uuid[]) AND f.sha256 <> '' FOR SHARE OF f
ON CONFLICT DO NOTHING
"""


def note(db: Db, jobs: Iterable[Stored]) -> None:
    """Note the files that stored jobs name; must be called in the transaction that stores the jobs.

    The lock makes retention, if it is about to remove such a file, wait for this transaction or find the note.
    """
    pairs = [(job.id, UUID(found)) for job in jobs for found in set(_ID.findall(job.params))]
    if pairs:
        db.fetch(_NOTE, {"jobs": [job for job, _ in pairs], "files": [file for _, file in pairs]})
