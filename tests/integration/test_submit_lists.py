"""A list of requests is stored, and refused, as its requests are one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from itertools import repeat
from typing import Annotated, Any
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from esteira import Context, JobType, Secret, job
from esteira.db import PrivateConnection
from esteira.errors import EsteiraError, InvalidRequest, Mistake
from esteira.job_types.request import Alike, SubmitRequest
from esteira.models import Job
from esteira.record import texts
from esteira.submit import MOST_REFUSED, submit

pytestmark = pytest.mark.usefixtures("database", "job_types", "fresh_publisher")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    number: int = Field(ge=1)
    key: Secret | None = None


def no_monday(day: date) -> date:
    if day.weekday() == 0:
        raise ValueError("is a Monday")
    return day


@pytest.fixture
def strange() -> JobType:
    @job(name="test.strange")
    def strange(
        ctx: Context,
        text: Annotated[str, Field(max_length=40)] = "a",
        number: int = 0,
        share: float | None = None,
        sure: bool = False,
        day: Annotated[date, AfterValidator(no_monday)] | None = None,
        at: datetime | None = None,
        amount: Decimal = Decimal("0.10"),
        ref: UUID | None = None,
        colour: Colour = Colour.RED,
        home: Address | None = None,
        key: Secret | None = None,
        table: dict[int, list[str]] | None = None,
        extra: Any = None,
    ) -> None: ...

    return strange


#: Parameters that are accepted, and parameters that are refused, each for another reason.
GOOD: list[dict[str, Any]] = [
    {},
    {"text": 'Ána "🎉" \\ {},[]\u2028'},
    {"text": "\\u0000 \\\\u0000"},
    {"number": 10**60, "share": 1e308, "amount": "1E+3"},
    {"number": -0, "share": -0.0},
    {"day": "2026-12-01", "at": "2026-12-01T10:00:00+01:00", "ref": UUID(int=7)},
    {"colour": "blue", "home": {"street": "Rua A", "number": 7, "key": "s3cret"}},
    {"key": "Schlüssel \\ \"'"},
    {"table": {"1": ["a", "b"], "2": []}},
    {"extra": {"a": [1, 2.5, None, True, {"b": "\ufffd"}], "": "NULL"}},
    {"extra": "x" * 60_000},
    {"extra": [[]] * 150},
]
BAD: list[Any] = [
    {"text": "x" * 41},
    {"text": "a\0b"},
    {"text": "\ud800"},
    {"number": True},
    {"number": "many", "share": float("nan")},
    {"extra": float("inf")},
    {"day": "2026-11-30"},
    {"home": {"street": 5}},
    {"key": "*" * 10},
    {"table": {"1": [], "01": []}},
    {"extra": "x" * 70_000},
    {"extra": object()},
    {"extra": {1: 2, "1": 3}},
    {"unknown": 1, "text": 7},
    [("text", "a")],
    None,
]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


BAD += [{"extra": nested(250)}, {"extra": {"\udfff": nested(250)}}]


def stored_text(job_id: UUID) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT params::text FROM esteira_job WHERE id = %s", [job_id])
        return str(cursor.fetchone()[0])


def one_by_one(job_type: JobType, many: Iterable[Any]) -> list[str | list[Mistake]]:
    """Submit each request by itself; return the stored texts, and the mistakes of those that are refused."""
    found: list[str | list[Mistake]] = []
    for params in many:
        try:
            (answer,) = submit([SubmitRequest(type=job_type.name, params=params)])
        except EsteiraError as error:
            found.append(error.mistakes)
        else:
            found.append(stored_text(answer.id))
    return found


def in_lists(job_type: JobType, many: list[Any]) -> Iterator[Iterable[SubmitRequest]]:
    """Yield the ways to submit a list."""
    yield Alike(one=SubmitRequest(type=job_type.name, params={}), many=many)
    yield [SubmitRequest(type=job_type.name, params=params) for params in many]
    # Other options between them, so that nothing is alike.
    yield [
        SubmitRequest(type=job_type.name, params=p, priority=("high", "low")[n % 2])
        for n, p in enumerate(many)
    ]


def test_a_list_stores_what_its_requests_store_one_by_one(strange: JobType) -> None:
    expected = one_by_one(strange, GOOD)

    assert all(isinstance(one, str) for one in expected)
    for requests in in_lists(strange, GOOD):
        assert [stored_text(one.id) for one in submit(requests)] == expected


def test_a_list_is_refused_with_the_mistakes_of_its_requests(strange: JobType) -> None:
    mixed = [one for pair in zip(GOOD + GOOD, BAD, strict=False) for one in pair]
    expected = [
        replace(mistake, at=(n, *mistake.at))
        for n, found in enumerate(one_by_one(strange, mixed))
        if not isinstance(found, str)
        for mistake in found
    ]
    Job.objects.all().delete()

    assert len({mistake.at[0] for mistake in expected}) == len(BAD)
    for requests in in_lists(strange, mixed):
        with pytest.raises(InvalidRequest) as refused:
            submit(requests)
        assert refused.value.mistakes == expected
    assert not Job.objects.exists()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:30])
def test_the_only_refused_request_of_a_list_is_refused_as_alone_and_named(strange: JobType, bad: Any) -> None:
    (expected,) = one_by_one(strange, [bad])

    for requests in in_lists(strange, [*GOOD, bad, *GOOD]):
        with pytest.raises(EsteiraError) as refused:
            submit(requests)
        assert refused.value.mistakes == expected
        assert refused.value.__notes__ == [f"in request {len(GOOD)}, counted from 0"]
    assert not Job.objects.exists()


def test_bad_options_of_alike_requests_are_named_for_each(strange: JobType) -> None:
    with pytest.raises(InvalidRequest) as refused:
        strange.options(priority="urgent", delay=-1).submit_many([{}, {"number": "x"}])

    assert [mistake.at for mistake in refused.value.mistakes] == [
        (0, "priority"), (0, "delay"), (1, "params", "number"), (1, "priority"), (1, "delay"),
    ]  # fmt: skip


def test_an_endless_list_of_mistakes_ends(strange: JobType) -> None:
    with pytest.raises(InvalidRequest) as refused:
        strange.submit_many(repeat({"number": "x"}))

    assert len(refused.value.mistakes) == MOST_REFUSED


def test_a_generator_may_fill_one_object_again_and_again(strange: JobType) -> None:
    def rows() -> Iterator[Mapping[str, Any]]:
        row: dict[str, Any] = {"extra": []}
        for n in range(1200):
            row["number"] = n
            row["extra"].append(n)
            yield row
            row["extra"].clear()

    ids = strange.submit_many(rows())

    found = {row.id: (row.params["number"], row.params["extra"]) for row in Job.objects.all()}
    assert [found[one] for one in ids] == [(n, [n]) for n in range(1200)]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_any_texts_reach_the_database_as_they_are(core: PrivateConnection, values: list[str]) -> None:
    assert core.fetch("SELECT %s::text[]", [texts(values)]) == [(values,)]


@pytest.mark.parametrize("values", [["a\0b"], ["a", "\0"], ["\0", "\0", "\0"]])
def test_a_text_with_a_nul_never_becomes_two(values: list[str]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        texts(values)
