"""The jobs in the admin's list: the newest 1,000 that match, found within limits, and a message if there may be more.

No filter reads the whole table: `esteira.search` finds the jobs, and Django's query selects them by their ids.
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

#: An action applies to at most so many jobs.
MOST_LISTED = 1000
_TICK = timedelta(microseconds=1)
Lookups = list[tuple[str, str]]


class _Filter(admin.SimpleListFilter):
    """Offers values; `JobList` searches for the chosen one."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset


class StateFilter(_Filter):
    """By the shown state."""

    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in SHOWN_STATES]


class TypeFilter(_Filter):
    """By type, from the types that this release knows: a query for the distinct types would read the whole table."""

    takes_others = True  # the table also has jobs of other releases
    title = parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in registry.names()]


class QueueFilter(_Filter):
    """By queue, from the queues that this release knows."""

    takes_others = True
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(name, name) for name in known_queues()]


class JobList(OfferedOrder):
    """The list with its filters and its search: by a whole id, else by a part of the name of a job type."""

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
        if request.method == "GET":  # after an action, the browser gets the list again
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
        """Return the search that the request describes; None if no job can match."""
        asked = {name: values[-1] for name, values in self.filter_params.items() if values[-1]}
        try:
            types = [TYPE_NAME.check("type", asked["type"])] if "type" in asked else []
            queue = QUEUE_NAME.check("queue", asked["queue"]) if "queue" in asked else ""
        except InvalidOption as error:
            raise Unanswerable(error.field, error.wording, **error.values) from None
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
        """Show a message with a link if there may be more jobs."""
        end = found.searched_to or (found.keys[-1] if found.more else None)
        if end is None:
            return
        older = self.get_query_string({"created_at__lt": (end[0] + _TICK).isoformat()}, remove=["p"])
        some = f"The {'newest' if newest else 'next'} {MOST_LISTED:,} of the matching jobs are shown."
        said = found.told(newest=newest) or some
        messages.info(request, format_html('{} <a href="{}">Search older jobs</a>', said, older))


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
        raise Unanswerable(name, "not-a-moment-of-the-list", given=shown(text)) from None
