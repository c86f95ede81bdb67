"""Limit the queries of a list in the admin to the filters and the order that the list offers.

Django lets a user who may see a list filter by any column, for example `params__token__startswith=a`. With many such
requests, a user could read values that no page shows. Django also sorts by columns that offer no sorting. And it
ignores filters that it cannot read: an unknown state would show all jobs, and an action applies to the jobs shown.
"""

from __future__ import annotations

import re
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR, ChangeList
from django.core.exceptions import SuspiciousOperation, ValidationError
from django.db.models import BooleanField, Field, IntegerField, Model
from django.http import HttpRequest, QueryDict

from esteira.errors import EsteiraError
from esteira.values.bounds import LONGEST_NUMBER, is_digits, shown

#: The lookups that Django's filters of a field use.
BY_A_FIELD = ("", "__exact", "__isnull", "__gte", "__lt")
BY_A_DATE = ("__year", "__month", "__day")
_ORDER = re.compile(r"(-?[0-9]{1,3}(\.-?[0-9]{1,3})*)?")


class Unanswerable(EsteiraError, SuspiciousOperation):
    """The query of a list has no meaning (answered with 400 by every server); `wording` is the code of the mistake."""

    code = "bad-lookup"
    problem = "bad-request"
    status = 400

    def __init__(self, parameter: str, wording: str, /, **values: Any) -> None:
        super().__init__(wording, field=parameter, **values)


class OfferedOrder(ChangeList):
    """Sorts by the columns that offer sorting only, and answers 400 to a query that it cannot read."""

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        _refuse_odd_numbers(request.GET)
        super().__init__(request, *args, **kwargs)

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    def get_filters(self, request: HttpRequest) -> Any:
        for name, values in self.get_filters_params().items():
            if not self.model_admin.lookup_allowed(name, values[-1], request):
                raise Unanswerable(name, "not-a-filter")
            if len(values) > 1:
                raise Unanswerable(name, "given-several-times", count=len(values))
            self._refuse_unknown(name, values[0], request)
        return super().get_filters(request)

    def get_results(self, request: HttpRequest) -> None:
        """Show the last page instead of a page after it: an action on the last page may have emptied it."""
        try:
            super().get_results(request)
        except IncorrectLookupParameters:
            pages = self.model_admin.get_paginator(request, self.queryset, self.list_per_page)
            self.page_num = pages.num_pages
            super().get_results(request)

    def _refuse_unknown(self, name: str, value: str, request: HttpRequest) -> None:
        own: Any = next((one for one in self.list_filter if getattr(one, "parameter_name", "") == name), None)
        if own:
            spec = own(request, {name: [value]}, self.model, self.model_admin)
            offered = (
                None if getattr(spec, "takes_others", False) else [str(one) for one, _ in spec.lookup_choices]
            )
        else:
            offered = _offered_by(self.model, name, value)
        if not value or (offered is not None and value not in offered):
            wording = "not-one-of" if offered else "not-offered"
            raise Unanswerable(name, wording, allowed=offered, given=shown(value))


class OnlyWhatIsOffered(admin.ModelAdmin):  # type: ignore[type-arg]
    """Refuses (400) every lookup that is not a filter of the list. It is the base of each model's page in the admin."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OfferedOrder

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Refuse a query that Django would answer with the whole list."""
        try:
            return super().get_changelist_instance(request)
        except IncorrectLookupParameters as error:
            raise Unanswerable("filter", "cannot-be-filtered", reason=str(error)) from None

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return None for an id that is not written in plain digits."""
        if isinstance(self.model._meta.pk, IntegerField) and not is_digits(object_id):
            return None
        return super().get_object(request, object_id, from_field)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        offered = self.get_list_filter(request) if request else self.list_filter
        asked = {name for one in offered for name in _asked_by(self.model, one)}
        if self.date_hierarchy:
            asked |= {f"{self.date_hierarchy}{how}" for how in BY_A_DATE}
        return lookup in asked


def _asked_by(model: type[Model], offered: Any) -> list[str]:
    """Return the lookups of one filter: its parameter for a filter class, Django's lookups for a field."""
    if isinstance(offered, type):
        return [getattr(offered, "parameter_name", "")]
    path = offered[0] if isinstance(offered, list | tuple) else offered
    names = [f"{path}{how}" for how in BY_A_FIELD]
    field: Any = get_fields_from_path(model, path)[-1]
    return [*names, f"{path}__{field.target_field.name}__exact"] if field.is_relation else names


def _refuse_odd_numbers(query: QueryDict) -> None:
    for page in query.getlist(PAGE_VAR):
        if not is_digits(page) or len(page) > LONGEST_NUMBER or not int(page):
            raise Unanswerable(PAGE_VAR, "not-a-page", given=shown(page))
    for order in query.getlist(ORDER_VAR):
        if not _ORDER.fullmatch(order):
            raise Unanswerable(ORDER_VAR, "not-an-order", given=shown(order))


def _offered_by(model: type[Model], name: str, value: str) -> list[str] | None:
    """Return the values that the filter of a field offers; None if the filter takes any value, and so this one."""
    how = next((how for how in sorted(BY_A_FIELD, key=len, reverse=True) if name.endswith(how)), "")
    field: Any = get_fields_from_path(model, name.removesuffix(how))[-1]
    if how == "__isnull":
        return ["True", "False"]
    if isinstance(field, BooleanField):
        return ["1", "0"]
    if field.flatchoices:
        return [str(one) for one, _ in field.flatchoices]
    return None if _is_a_value_of(field, value) else []


def _is_a_value_of(field: Field[Any, Any], value: str) -> bool:
    if isinstance(field, IntegerField) and (not is_digits(value) or len(value) > LONGEST_NUMBER):
        return False
    try:
        wanted = field.to_python(value)
    except (ValidationError, OverflowError):
        return False
    return not field.primary_key or field.model._default_manager.filter(pk=wanted).exists()
