"""Which jobs the admin's list shows: the newest 1,000 that match, found within bounds; it says so if there may be more.

No filter reads the table: `esteira.search` looks for the jobs, and Django's query is about their ids alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from esteira.broker.batching import known_queues
from esteira.db import DjangoConnection
from esteira.errors import InvalidOption
from esteira.job_types.registry import registry
from esteira.models import Job
from esteira.search import Found, Wanted, search
from esteira.states import SHOWN_STATES
from esteira.values.bounds import QUEUE_NAME, TYPE_NAME, moment, shown
from esteira_web.admin.asked import OfferedOrder, Unanswerable

#: As many as an action may be about.
MOST_LISTED = 1000
_TICK = timedelta(microseconds=1)
Lookups = list[tuple[str, str]]


class _Filter(admin.SimpleListFilter):
    """Offers values; `JobList` looks for what is chosen."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset


class StateFilter(_Filter):
    """By the state that people see."""

    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in SHOWN_STATES]


class TypeFilter(_Filter):
    """By type, of those that this release knows: asking the table for its distinct types would read all of it."""

    takes_others = True  # jobs of other releases are there too
    title = parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in registry.names()]


class QueueFilter(_Filter):
    """By queue, of those that this release reads."""

    takes_others = True
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in known_queues()]


class JobList(OfferedOrder):
    """The list, its filters and its search: by a whole id, else by the types that the word is a part of."""

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: list[str | None] | None = None
    ) -> QuerySet[Job]:
        chosen: QuerySet[Job] = super().get_queryset(request, exclude_parameters)
        word = self.query.strip()
        if word and (job_id := _id(word)):
            return chosen.filter(pk__in=self._matching(job_id))
        wanted = self._wanted(word)
        if wanted is None:
            return chosen.none()
        found = search(DjangoConnection(), wanted, most=MOST_LISTED)
        if request.method == "GET":  # an action leads back to the list
            self._tell(request, found, newest=wanted.before is None)
        return chosen.filter(pk__in=[key[1] for key in found.keys])

    def _matching(self, job_id: UUID) -> list[UUID]:
        wanted = self._wanted("")
        if wanted is None:
            return []
        rows = DjangoConnection().fetch(
            f"SELECT j.id FROM esteira_job j WHERE j.id = %(id)s AND {wanted.fits(wanted.states)}",
            {**wanted.asked(), "id": job_id},
        )
        return [row[0] for row in rows]

    def _wanted(self, word: str) -> Wanted | None:
        """Return what is asked for; None if no job can match."""
        asked = {name: values[-1] for name, values in self.filter_params.items() if values[-1]}
        try:
            types = [TYPE_NAME.check("type", asked["type"])] if "type" in asked else []
            queue = QUEUE_NAME.check("queue", asked["queue"]) if "queue" in asked else ""
        except InvalidOption as error:
            raise Unanswerable(error.field, str(error.errors[0]["detail"])) from None
        if word:
            named = [name for name in registry.names() if word.lower() in name.lower()] or [word]
            types = [name for name in named if not types or name in types]
            if not types:
                return None
        since, until = (
            _moment(f"created_at__{end}", asked.get(f"created_at__{end}")) for end in ("gte", "lt")
        )
        return Wanted(
            states=[asked["state"]] if "state" in asked else [],
            types=types,
            queue=queue,
            after=since and since - _TICK,
            before=until,
        )

    def _tell(self, request: HttpRequest, found: Found, *, newest: bool) -> None:
        """Say that there may be more, and lead there."""
        end = found.searched_to or (found.keys[-1] if found.more else None)
        if end is None:
            return
        older = self.get_query_string({"created_at__lt": (end[0] + _TICK).isoformat()}, remove=["p"])
        some = f"These are the {'newest' if newest else 'next'} {MOST_LISTED:,} of those that match."
        said = found.told(newest=newest) or some
        messages.info(request, format_html('{} <a href="{}">Search older ones</a>', said, older))


def _id(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at: datetime | None = Job._meta.get_field("created_at").to_python(text)
        return at and moment(name, at)
    except (ValidationError, InvalidOption, OverflowError):
        detail = (
            f"must be a date and time with a time zone, such as 2026-01-31 09:00:00+00:00, not {shown(text)}."
        )
        raise Unanswerable(name, detail) from None
