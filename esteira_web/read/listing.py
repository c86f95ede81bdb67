"""Lists of jobs and uploads, newest first, for the API, the pages and the command line.

Lists use keyset pagination: the hundredth page costs as much as the first, and no job is shown twice while new jobs
arrive. A search by filters has limits; if it could not fill a page, the page has the moment that the search reached,
and a cursor to continue from there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Q, QuerySet

from esteira.db import DjangoConnection
from esteira.errors import EsteiraError, InvalidOption, InvalidRequest, Mistake
from esteira.models import File, Job
from esteira.search import Wanted, search
from esteira.search.scan import LIMIT_S, Key, bounded
from esteira.states import SHOWN_STATES
from esteira.values import bounds
from esteira_web.read.as_json import jobs

T = TypeVar("T")
Row = TypeVar("Row", Job, File)

#: Columns that a list does not show and that may be large.
HEAVY = ("params", "result")


class BadFilter(EsteiraError):
    """A filter or cursor of a list has no meaning; `wording` is the code of the mistake."""

    code = "bad-filter"
    problem = InvalidRequest.code
    status = 422

    def __init__(self, parameter: str, wording: str, /, **values: Any) -> None:
        super().__init__(wording, field=parameter, **values)
        self.mistakes = [Mistake(code=wording, parameter=parameter, values=values)]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Filters for jobs: several states mean any of them, `account` means the jobs that it submitted."""

    states: Sequence[str] = ()
    type: str = ""
    queue: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    account: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Row]):
    """One page; `next` is the cursor to older rows, `prev` to newer ones.

    `searched_to`: the search reached its limit at this moment, which `told` explains to people, and `next` (or `prev`,
    if the search was not for `older` jobs) continues from there; None if the page is complete.
    """

    items: list[Row]
    next: str | None
    prev: str | None
    searched_to: datetime | None = None
    told: str = ""
    older: bool = True

    @property
    def cursors(self) -> dict[str, str | None]:
        return {"next": self.next, "prev": self.prev}


def page(filters: Filters, *, cursor: str = "", limit: int) -> Page[Job]:
    """Return one page of jobs; raises BadFilter, or TooSlow if the search finds nothing in time."""
    wanted = _wanted(filters)
    direction, start = _read(cursor) if cursor else ("older", None)
    older = direction == "older"
    found = search(DjangoConnection(), wanted, start=start, older=older, most=limit)
    # `end`: the last key of this page in the direction of the search, if there may be more; `begin`: its first key.
    end = found.searched_to or (found.keys[-1 if older else 0] if found.more else None)
    begin = found.keys[0 if older else -1] if found.keys else start
    back = _cursor("newer" if older else "older", begin) if begin and start else None
    onward = _cursor(direction, end) if end else None
    return Page(
        items=_items([key[1] for key in found.keys]),
        next=onward if older else back,
        prev=back if older else onward,
        searched_to=found.searched_to and found.searched_to[0],
        told=found.told(newest=start is None and wanted.before is None, older=older),
        older=older,
    )


def cut(found: QuerySet[File], *, cursor: str = "", limit: int) -> Page[File]:
    """Return one page of uploads; raises BadFilter for a cursor that this server did not make."""
    direction, start = _read(cursor) if cursor else ("older", None)
    older = direction == "older"
    if start is not None:
        at, row_id = start
        beyond = Q(created_at__lt=at) | Q(created_at=at, id__lt=row_id)
        found = found.filter(beyond if older else ~beyond & ~Q(id=row_id))
    order = ("-created_at", "-id") if older else ("created_at", "id")
    rows = list(found.order_by(*order)[: limit + 1])
    more, rows = len(rows) > limit, rows[:limit]
    if not older:
        rows.reverse()
    at_begin, at_end = bool(start) if older else more, more if older else bool(start)
    return Page(
        items=rows,
        next=_cursor("older", (rows[-1].created_at, rows[-1].pk)) if rows and at_end else None,
        prev=_cursor("newer", (rows[0].created_at, rows[0].pk)) if rows and at_begin else None,
    )


def _items(ids: list[UUID]) -> list[Job]:
    """Return the jobs in this order, without jobs that retention has just removed."""
    if not ids:
        return []
    with bounded(DjangoConnection(), LIMIT_S):
        found = jobs().defer(*HEAVY).in_bulk(ids)
    return [found[one] for one in ids if one in found]


def _wanted(filters: Filters) -> Wanted:
    if unknown := set(filters.states) - set(SHOWN_STATES):
        raise BadFilter("state", "not-one-of", allowed=SHOWN_STATES, given=bounds.shown(min(unknown)))
    moments = {name: getattr(filters, name) for name in ("created_after", "created_before")}
    checked = {name: at and _checked(name, bounds.moment, at) for name, at in moments.items()}
    return Wanted(
        states=list(dict.fromkeys(filters.states)),
        types=[_checked("type", bounds.TYPE_NAME.check, filters.type)] if filters.type else [],
        queue=_checked("queue", bounds.QUEUE_NAME.check, filters.queue) if filters.queue else "",
        account=filters.account,
        after=checked["created_after"],
        before=checked["created_before"],
    )


def _checked(name: str, check: Callable[[str, Any], T], value: Any) -> T:
    try:
        return check(name, value)
    except InvalidOption as error:
        raise BadFilter(name, error.wording, **error.values) from None


def _cursor(direction: str, key: Key) -> str:
    text = json.dumps([direction, key[0].isoformat(), str(key[1])], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[str, Key]:
    try:
        direction, at, job_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment, key = datetime.fromisoformat(at), UUID(job_id)
        if direction not in ("older", "newer") or moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)  # PostgreSQL refuses some offsets that Python accepts
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error, RecursionError):
        raise BadFilter("cursor", "not-a-cursor") from None
    return direction, (moment, key)
