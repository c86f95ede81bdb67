"""Lists of jobs and uploads, newest first, for the API, the pages and the command line.

Pages are cut by key: the hundredth costs as much as the first, and nothing is shown twice while new jobs arrive.
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

from esteira import bounds
from esteira.errors import EsteiraError, InvalidOption
from esteira.models import File, Job
from esteira.shown import in_states
from esteira.states import SHOWN_STATES
from web.shapes import jobs

T = TypeVar("T")
Row = TypeVar("Row", Job, File)

#: What a line does not show, and what may be large.
HEAVY = ("params", "result")


class BadFilter(EsteiraError):
    """A list was asked for in a way that makes no sense."""

    code = "invalid-request"
    status = 422

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(f"{parameter}: {detail}")
        self.errors = [{"parameter": parameter, "detail": detail}]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which jobs; several states mean any of them, `account` means those that it submitted."""

    states: Sequence[str] = ()
    type: str = ""
    queue: str = ""
    created_after: datetime | None = None
    account: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Row]):
    """One page; `next` leads to older rows, `prev` to newer ones."""

    items: list[Row]
    next: str | None
    prev: str | None

    @property
    def cursors(self) -> dict[str, str | None]:
        return {"next": self.next, "prev": self.prev}


def page(filters: Filters, *, cursor: str = "", limit: int) -> Page[Job]:
    """Return one page of jobs; raises BadFilter."""
    return cut(_filtered(filters), cursor=cursor, limit=limit)


def cut(found: QuerySet[Row], *, cursor: str = "", limit: int) -> Page[Row]:
    """Return one page of rows that have a `created_at` and a key; raises BadFilter for a cursor of somebody else's."""
    if not cursor:
        items = list(found.order_by("-created_at", "-id")[: limit + 1])
        return _cut(items, limit, more_before=False)
    direction, at, job_id = _read(cursor)
    if direction == "older":
        older = found.filter(Q(created_at__lt=at) | Q(created_at=at, id__lt=job_id), created_at__lte=at)
        items = list(older.order_by("-created_at", "-id")[: limit + 1])
        return _cut(items, limit, more_before=True)
    newer = found.filter(Q(created_at__gt=at) | Q(created_at=at, id__gt=job_id), created_at__gte=at)
    items = list(newer.order_by("created_at", "id")[: limit + 1])
    more = len(items) > limit
    items = items[:limit][::-1]
    return Page(
        items=items,
        next=_cursor("older", items[-1]) if items else None,
        prev=_cursor("newer", items[0]) if more else None,
    )


def _cut(items: list[Row], limit: int, *, more_before: bool) -> Page[Row]:
    more, items = len(items) > limit, items[:limit]
    return Page(
        items=items,
        next=_cursor("older", items[-1]) if more else None,
        prev=_cursor("newer", items[0]) if more_before and items else None,
    )


def _filtered(filters: Filters) -> QuerySet[Job]:
    found = jobs().defer(*HEAVY)
    if filters.account is not None:
        found = found.filter(account=filters.account)
    if filters.states:
        if unknown := set(filters.states) - set(SHOWN_STATES):
            raise BadFilter(
                "state", f"must be one of {', '.join(SHOWN_STATES)}, not {bounds.shown(min(unknown))}."
            )
        found = found.filter(in_states(filters.states))
    if filters.type:
        found = found.filter(type=_checked("type", bounds.TYPE_NAME.check, filters.type))
    if filters.queue:
        found = found.filter(queue=_checked("queue", bounds.QUEUE_NAME.check, filters.queue))
    if filters.created_after:
        found = found.filter(created_at__gt=_checked("created_after", bounds.moment, filters.created_after))
    return found


def _checked(name: str, check: Callable[[str, Any], T], value: Any) -> T:
    try:
        return check(name, value)
    except InvalidOption as error:
        raise BadFilter(name, str(error.errors[0]["detail"])) from None


def _cursor(direction: str, row: Job | File) -> str:
    text = json.dumps([direction, row.created_at.isoformat(), str(row.pk)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[str, datetime, UUID]:
    try:
        direction, at, job_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment, key = datetime.fromisoformat(at), UUID(job_id)
        if direction not in ("older", "newer") or moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)  # PostgreSQL refuses offsets that Python knows
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error, RecursionError):
        raise BadFilter("cursor", "is not one of ours; start from the first page.") from None
    return direction, moment, key
