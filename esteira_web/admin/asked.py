"""What a list in the admin may be asked by its address: its own filters, and an order that it offers.

Django answers any question about any column to whoever may see a list, `params__token__startswith=a` too, and so one
question after another reads what no page shows. It sorts by columns that offer no sorting as well.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model
from django.http import HttpRequest

#: What Django's filters of a field ask.
BY_A_FIELD = ("", "__exact", "__isnull", "__gte", "__lt")
BY_A_DATE = ("__year", "__month", "__day")


class OfferedOrder(ChangeList):
    """Sorts by those columns that have a link for it."""

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None


class OnlyWhatIsOffered(admin.ModelAdmin):  # type: ignore[type-arg]
    """Refuses (400) every question that no filter of the list asks. Each model's page in the admin is one of these."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OfferedOrder

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        offered = self.get_list_filter(request) if request else self.list_filter
        asked = {name for one in offered for name in _asked_by(self.model, one)}
        if self.date_hierarchy:
            asked |= {f"{self.date_hierarchy}{how}" for how in BY_A_DATE}
        return lookup in asked


def _asked_by(model: type[Model], offered: Any) -> list[str]:
    """Name what one filter asks: one of our own by its parameter, one of a field by what Django's do."""
    if isinstance(offered, type):
        return [getattr(offered, "parameter_name", "")]
    path = offered[0] if isinstance(offered, list | tuple) else offered
    names = [f"{path}{how}" for how in BY_A_FIELD]
    field: Any = get_fields_from_path(model, path)[-1]
    return [*names, f"{path}__{field.target_field.name}__exact"] if field.is_relation else names
