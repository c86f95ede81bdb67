"""What a list in the admin is asked by its address: the filters that it shows, and nothing else.

Django lets whoever may see a list filter it by every column, and by parts of a column, so that one question after
another reads what no page shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models import Model
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from tests.support.clients import account

pytestmark = pytest.mark.django_db
REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
#: What the filters beside each list ask. Whoever adds a filter says here what it shows.
DECLARED = {
    "auth.Group": set(),
    "auth.User": {"is_staff__exact", "is_superuser__exact", "is_active__exact", "groups__id__exact"},
    "esteira.Job": {"state", "type", "queue", "created_at__gte", "created_at__lt"},
    "esteira.Queue": set(),
    "esteira.Schedule": {"enabled__exact", "origin"},
    "esteira.Worker": set(),
    "esteira_web.ApiToken": {"role__exact"},
}
#: How a value is read bit by bit, or by what it compares with.
READING = ("", "__startswith", "__contains", "__regex", "__gt", "__lte", "__in", "__range", "__length__gt")


def questions(model: type[Model], prefix: str = "", deep: int = 2) -> Iterator[str]:
    """Name ways to ask for every column of a model, and of those that it is related to."""
    for field in model._meta.get_fields():
        name = f"{prefix}{field.name}"
        yield from (f"{name}{how}" for how in READING)
        if field.get_internal_type() == "JSONField":
            yield from (f"{name}__password{how}" for how in READING)
        if field.is_relation and field.related_model and deep:
            yield from questions(field.related_model, f"{name}__", deep - 1)


def looker(model: type[Model]) -> Client:
    """A browser of staff that may look at these rows, and do nothing else."""
    user = account("staffer", staff=True)
    meta = model._meta
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label=meta.app_label, codename=f"view_{meta.model_name}")
    )
    client = Client()
    client.force_login(user)
    return client


def address(model: type[Model]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def test_every_model_in_the_admin_says_what_may_be_asked() -> None:
    assert {model._meta.label for model in REGISTERED} == set(DECLARED)


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)
def test_a_list_answers_no_question_but_that_of_its_filters(model: type[Model]) -> None:
    page: Any = admin.site._registry[model]
    request = RequestFactory().get("/")

    answered = {name for name in questions(model) if page.lookup_allowed(name, "x", request)}

    same_as_shown = {f"{name}{how}" for name in DECLARED[model._meta.label] for how in ("", "__exact")}
    shown_fields = {name.partition("__")[0] for name in DECLARED[model._meta.label]}
    assert answered <= same_as_shown | shown_fields
    assert all(page.lookup_allowed(name, "x", request) for name in DECLARED[model._meta.label])


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)
def test_no_column_but_the_key_can_stand_for_a_row(model: type[Model]) -> None:
    page: Any = admin.site._registry[model]
    request = RequestFactory().get("/")
    others = [field.name for field in model._meta.concrete_fields if not field.primary_key]

    assert not [name for name in others if page.to_field_allowed(request, name)]


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)
def test_staff_who_may_look_is_refused_other_questions(model: type[Model]) -> None:
    client = looker(model)
    key = model._meta.pk.name  # type: ignore[union-attr]

    plain = client.get(address(model), dict.fromkeys(("_popup", "_facets", "all"), "1"))
    asked = client.get(address(model), {f"{key}__startswith": "1"})

    assert plain.status_code == 200
    assert asked.status_code == 400


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/admin/esteira/job/", "params__token__startswith"),
        ("/admin/esteira/job/", "events__detail__contains"),
        ("/admin/esteira/job/", "logs__text__contains"),
        ("/admin/esteira/job/", "result__isnull"),
        ("/admin/esteira/schedule/", "params__password__startswith"),
        ("/admin/esteira/schedule/", "job__params__token__startswith"),
        ("/admin/esteira_web/apitoken/", "sha256__startswith"),
        ("/admin/esteira_web/apitoken/", "user__password__startswith"),
        ("/admin/auth/user/", "esteira_tokens__sha256__startswith"),
        ("/admin/auth/group/", "user__password__startswith"),
    ],
)
def test_a_secret_cannot_be_asked_for(path: str, question: str) -> None:
    client = Client()
    client.force_login(account("root", superuser=True, staff=True))

    assert client.get(path, {question: "a"}).status_code == 400
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("page", ["change", "history", "delete"])
def test_a_row_is_found_by_plain_digits_alone(page: str) -> None:
    """Python reads ` 5`, `+5`, `0_5` and the digits of other scripts as 5, and so does Django."""
    client = Client()
    client.force_login(account("root", superuser=True, staff=True))
    mark = account("staffer").pk
    in_arabic = str(mark).translate({ord(str(n)): chr(0x660 + n) for n in range(10)})
    where = "/admin/auth/user/{}/" + page + "/"

    def status(number: str) -> int:
        return client.get(where.format(quote(number))).status_code

    assert status(str(mark)) == 200
    odd = [f" {mark}", f"{mark} ", f"+{mark}", f"0_{mark}", f"{mark}.0", in_arabic]
    assert {number: status(number) for number in odd} == dict.fromkeys(odd, 302)


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)
def test_a_list_is_sorted_by_no_column_that_offers_no_sorting(model: type[Model]) -> None:
    """The place of a row says something about what it is sorted by, and sorting millions of rows takes long."""
    page: Any = admin.site._registry[model]
    client = Client()
    client.force_login(account("root", superuser=True, staff=True))
    request = RequestFactory().get("/")
    request.user = account("other", superuser=True, staff=True)
    columns = page.get_list_display(request)
    offered = set(page.get_sortable_by(request))

    for at, name in enumerate(columns, 1 if "action_checkbox" not in columns else 0):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(address(model), {"o": str(at)}).status_code == 200
        table = f'FROM "{model._meta.db_table}"'
        orders = [q["sql"].partition("ORDER BY")[2] for q in queries if table in q["sql"]]
        if name not in offered:
            assert not [
                order for order in orders if f'"{name}" ASC' in order and name not in page.ordering
            ], name
