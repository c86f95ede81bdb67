"""Find a job or an upload by its whole id, or by the last digits of the id.

Ids begin with the time, so ids of the same minute begin with the same digits; the last digits are random. Tables show
the last twelve digits, and eight are enough to identify a job among the newest.
"""

from __future__ import annotations

import re
from uuid import UUID

from esteira.db import DjangoConnection
from esteira.errors import EsteiraError, NotFound, TooSlow
from esteira.models import Job
from esteira.search.scan import LIMIT_S, within
from esteira.values.bounds import shown
from esteira_web.read.as_json import jobs

SHORTEST = 8
#: Only the newest jobs are searched by the last digits: this search reads along an index, it is not a look-up by key.
AMONG = 10_000
_ENDING = """
SELECT id FROM (SELECT id FROM {among} LIMIT %s) AS newest
WHERE right(replace(id::text, '-', ''), %s) = %s LIMIT 4"""


class NotAnId(EsteiraError):
    """The text cannot be an id."""

    code = "not-an-id"
    status = 422


class Ambiguous(EsteiraError):
    """Several ids end with these digits."""

    code = "ambiguous"
    status = 409


def job_id(ref: str) -> UUID:
    """Return the id of the job for `ref`; raises NotAnId, NotFound or Ambiguous."""
    return _id_of("job", ref, "esteira_job ORDER BY id DESC")


def upload_id(ref: str) -> UUID:
    """Return the id of the upload for `ref`; raises as `job_id` does."""
    return _id_of("file", ref, "esteira_file WHERE job_id IS NULL ORDER BY created_at DESC, id DESC")


def _id_of(kind: str, ref: str, among: str) -> UUID:
    digits = ref.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{8,32}", digits):
        raise NotAnId(given=shown(ref), kind=kind, shortest=SHORTEST)
    return UUID(digits) if len(digits) == 32 else _ending_in(kind, ref, digits, among)


def _ending_in(kind: str, ref: str, digits: str, among: str) -> UUID:
    db = DjangoConnection()
    asked = [AMONG, len(digits), digits]
    rows = within(db, LIMIT_S, lambda: db.fetch(_ENDING.format(among=among), asked))
    if rows is None:
        raise TooSlow
    if not rows:
        raise NotFound(kind, ref, "not-found.ending", among=AMONG)
    if len(rows) > 1:
        raise Ambiguous(ref=ref, ids=[str(row[0]) for row in rows])
    found: UUID = rows[0][0]
    return found


def job(ref: str | UUID) -> Job:
    """Return the job, with the database's time as `db_now`; raises as `job_id` does."""
    wanted = ref if isinstance(ref, UUID) else job_id(ref)
    found = jobs().filter(pk=wanted).first()
    if found is None:
        raise NotFound("job", wanted)
    return found
