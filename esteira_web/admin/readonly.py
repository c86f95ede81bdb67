"""The common base of the read-only pages: they save nothing, and never count a whole table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from esteira.errors import EsteiraError
from esteira.values.bounds import is_moment
from esteira.values.readable import as_json
from esteira_web.admin.asked import OnlyWhatIsOffered

COUNT_AT_MOST = 10_000


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts at most 10,000 rows: a count of millions of rows would take too long for a page."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNT_AT_MOST].count())


class ReadOnly(OnlyWhatIsOffered):
    """A page that shows a model and does not change it; subclasses add actions."""

    paginator = CappedPaginator
    show_full_result_count = False
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class Tally:
    """Counts what an action did to the chosen rows, to report it at the end."""

    MOST_REFUSALS = 3

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.refused: list[EsteiraError] = []

    def add(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def tell(self, page: admin.ModelAdmin, request: HttpRequest) -> None:  # type: ignore[type-arg]
        """Show one message per outcome, and the first few refusals with their reasons."""
        for what, n in self.done.items():
            page.message_user(request, f"{n} {what}.", "success")
        for error in self.refused[: self.MOST_REFUSALS]:
            page.message_user(request, str(error), "warning")
        if (more := len(self.refused) - self.MOST_REFUSALS) > 0:
            page.message_user(request, f"{more} more refused.", "warning")


def who(request: HttpRequest) -> str:
    return str(request.user.get_username())


def moment(at: datetime | None) -> str:
    if at is None:
        return "–"
    return at.strftime("%Y-%m-%d %H:%M:%S") if is_moment(at) else f"broken ({at.isoformat()} or beyond)"


def pretty(value: Any) -> SafeString:
    """Show JSON with indentation."""
    return format_html("<pre>{}</pre>", as_json(value, indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> SafeString | str:
    """Show rows under headings; a dash if there are none."""
    if not rows:
        return "–"
    head = format_html_join("", '<th scope="col">{}</th>', ((h,) for h in headings))
    body = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows)
    )
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)
