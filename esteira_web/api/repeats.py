"""Repeats of a request with its Idempotency-Key: a repeat gets the first answer, as far as the caller may still see it.

The first answer names the jobs or the file that the request made. If all of them were removed, the answer would name
things that do not exist, and to make them again would undo a deletion or run a job twice: so the answer is 410 (gone).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from esteira.errors import EsteiraError, NotFound
from esteira.files.uploads import uploads
from esteira.idempotency import Answer, once
from esteira.models import Job
from esteira_web.accounts.roles import Access
from esteira_web.read.as_json import job_body, jobs

#: The fields of a job that need the right to payloads.
PAYLOADS = ("params", "result", "unique", "progress", "error")
_KEY = re.compile(r'[!#-~][!-~]{0,254}|"[ -~]{1,255}"')


class BadKey(EsteiraError):
    """The header Idempotency-Key is not 1 to 255 printable ASCII characters."""

    code = "bad-key"
    problem = "bad-request"


class Removed(EsteiraError):
    """The result of the first request with this key was removed."""

    code = "removed"
    status = 410


def with_key(
    access: Access, given: str | None, request: bytes, work: Callable[[], Answer]
) -> tuple[Answer, bool]:
    """Do the work, once if the request has an Idempotency-Key; the flag is True if the answer is a repeated one."""
    if given is None:
        return work(), False
    answer, replayed = once(access.key, key_of(given), request, work)
    if replayed:
        answer = {**answer, "body": _still_true(access, answer["body"])}
    return answer, replayed


def key_of(given: str) -> str:
    """Return an Idempotency-Key without its quotes; raises BadKey."""
    if not _KEY.fullmatch(given):
        raise BadKey
    return given[1:-1] if given.startswith('"') else given


def _still_true(access: Access, body: dict[str, Any]) -> dict[str, Any]:
    """Return a first answer as the caller may see it now; raises Removed, or NotFound."""
    if "jobs" in body:
        ids = [one["id"] for one in body["jobs"]]
        if not Job.objects.filter(pk__in=ids).exists():
            raise Removed("removed.batch" if len(ids) > 1 else "", kind="job", name=ids[0], count=len(ids))
        return body
    if "state" in body:
        return _as_they_may_see_it(access, body)
    if not uploads(None).filter(pk=body["id"]).exists():
        raise Removed(kind="file", name=body["id"])
    return body


def _as_they_may_see_it(access: Access, body: dict[str, Any]) -> dict[str, Any]:
    """Return a first answer without the fields for which the caller has lost the right."""
    job = jobs().filter(pk=body["id"]).first()
    if job is None:
        raise Removed(kind="job", name=body["id"])
    if access.reads(job):
        return body
    if not access.sees(job):
        raise NotFound("job", body["id"])
    shown = job_body(job, access)
    return {**body, **{name: shown[name] for name in PAYLOADS if name in body}}
