"""An accepted value is read back as the same value, or refused at the submit with parameter and reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from json.decoder import JSONDecoder
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    SecretBytes,
    Strict,
    StringConstraints,
)

from esteira import Context, FileRef, Secret
from esteira.errors import InvalidParameters
from esteira.job_types.checking import _facts, check
from esteira.job_types.parameters import Params, model_of
from tests.support.jobs import UNKNOWN_ID


def of(kind: Any, default: Any = ...) -> type[Params]:
    """Make the model of a job with one parameter of this type."""

    def work(ctx: Context, v: Any) -> None: ...

    work.__annotations__ = {"ctx": Context, "v": kind}
    if default is not ...:
        work.__defaults__ = (default,)
    return model_of(work, where="here.py:1", name="work")


def refusal(kind: Any, value: Any) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as refused:
        check(of(kind), {"v": value})
    return {one.pointer: one.detail for one in refused.value.mistakes}


class Tone(Enum):
    WARM = "warm"
    DRY = "dry"


class Lenient(Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.A


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    A = "a"


class Nested(BaseModel):
    n: int


class Sums(BaseModel):
    f: float


@dataclass
class Point:
    x: int


NAN = JSONDecoder().decode("NaN")  # one object for all; a list that holds it equals itself


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Json[dict], '{"x": 1}'),  # type: ignore[misc]
        (Annotated[UUID, Strict()], UNKNOWN_ID),
        (Annotated[str, AfterValidator(lambda s: s + "!")], "hi"),
        (Annotated[list[str], BeforeValidator(lambda v: v.split(","))], "a,b"),
        (dict, {"x": float("nan")}),
        (dict, {"x": NAN}),
        (dict, {"x": NAN, "y": "**********"}),
        (list, [float("inf")]),
        (Any, {1, 2}),
        (Any, {1: "a", "1": "b"}),
        (Any, {1: "a"}),
        (Any, datetime(2026, 1, 1, tzinfo=UTC)),
        (Any, b"bytes"),
        (Any, Point(1)),
        (Any, 10**5000),
        (int, 10**5000),
        (Sums, {"f": float("nan")}),
        (Annotated[float, Field(allow_inf_nan=True)], float("inf")),
        (SecretBytes, b"secret"),
        (Literal[Tone.WARM], Tone.WARM),
        (Annotated[str, StringConstraints(to_upper=True, max_length=1)], "ß"),
    ],
    ids=lambda one: repr(one)[:40] if not isinstance(one, int) else "n",
)
def test_what_would_not_be_read_back_is_refused_and_names_its_parameter(kind: Any, value: Any) -> None:
    said = refusal(kind, value)

    assert all(pointer.startswith("#/params") for pointer in said)
    assert all("would not survive storage" in detail or "JSON" in detail for detail in said.values())
    assert not _facts(of(kind)).always_lasts or kind is int


def test_a_parameter_with_an_alias_is_refused_because_it_is_stored_by_its_name() -> None:
    with pytest.raises(InvalidParameters, match="would not survive storage"):
        check(of(Annotated[int, Field(alias="w")]), {"w": 1})


def test_the_refusal_says_what_would_have_come_of_it() -> None:
    assert refusal(Annotated[str, AfterValidator(lambda s: s + "!")], "hi") == {
        "#/params/v": "would not survive storage: read back, it is 'hi!!'. "
        "Take a type whose JSON is read back as the same value."
    }


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Any, {"a": [1, 2.5, None, True, "x"]}),
        (Any, (1, 2)),
        (Any, 1e300),
        (Any, Word.A),
        (list, [[1], [(2, 3)]]),
        (date, "2026-01-31"),
        (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
        (timedelta, 90),
        (Decimal, "1.10"),
        (UUID, UNKNOWN_ID),
        (set[int], {1, 2}),
        (frozenset[str], {"a"}),
        (tuple[int, str], [1, "a"]),
        (dict[int, str], {1: "a"}),
        (bytes, b"bytes"),
        (Nested, {"n": 1}),
        (list[Nested], [{"n": 1}]),
        (Point, {"x": 1}),
        (int | str, "1"),
        (str | None, None),
        (Tone, "warm"),
        (Level, 1),
        (Lenient, "b"),
        (Literal["a", 1, None], 1),
        (FileRef, str(UNKNOWN_ID)),
        (Secret, "***********"),
        (list[Secret], ["a", "b"]),
        (Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)], " a "),
        (float, 1e308),
        (float, -0.0),
    ],
    ids=lambda one: repr(one)[:40] if not isinstance(one, int) else "n",
)
def test_what_is_read_back_is_accepted(kind: Any, value: Any) -> None:
    check(of(kind), {"v": value})


@pytest.mark.parametrize(
    "kind",
    [
        *(str, int, float, bool, str | None, list[int], dict[str, float], list[dict[str, bool]], int | str),
        *(Tone, Level, Lenient, Literal["a", 1], FileRef, Secret, Secret | None, UUID, date),
        *(Annotated[str, Field(max_length=3)], Annotated[list[str], Field(min_length=1)]),
    ],
    ids=lambda kind: repr(kind)[:40],
)
def test_plain_types_are_known_to_last_and_are_not_read_back(kind: Any) -> None:
    assert _facts(of(kind)).always_lasts
    assert _facts(of(kind | None, None)).always_lasts


class Identity:
    """Compares by identity, as most classes do; its text says what it holds."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda v: v if isinstance(v, cls) else cls(v),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda v: v.n),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "integer"}


def test_a_class_that_compares_by_identity_is_judged_by_its_text() -> None:
    assert check(of(Identity), {"v": 7})[1] == '{"v":7}'
    assert check(of(list[Identity]), {"v": [7, 8]})[1] == '{"v":[7,8]}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_refused_or_read_back_the_same(value: Any) -> None:
    model = of(Any)
    try:
        checked, text = check(model, {"v": value})
    except InvalidParameters:
        return

    assert model.model_validate_json(text) == checked
