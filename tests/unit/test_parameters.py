"""Parameters: only values that the signature allows are stored, and hostile input gets an error with a sentence."""

from __future__ import annotations

import json
import uuid
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic_core import core_schema

from esteira import Context, FileRef, Secret
from esteira.errors import DeclarationError, InvalidParameters, TooLarge
from esteira.job_types.checking import MAX_PARAMS_BYTES, check
from esteira.job_types.parameters import Params, model_of


class Address(BaseModel):
    street: str
    number: int


def greet(
    ctx: Context,
    name: Annotated[str, Field(max_length=80)],
    times: int = 3,
    share: float = 0.5,
    tone: Literal["warm", "dry"] = "warm",
    when: date | None = None,
    home: Address | None = None,
    extra: Any = None,
) -> None:
    """Say hello."""


GREET = model_of(greet, where="greetings.py:1", name="greet")


def pointers(params: Any, model: type[Params] = GREET) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as refusal:
        check(model, params)
    return {one.pointer: one.detail for one in refusal.value.mistakes}


def test_defaults_are_filled_in_before_anything_is_stored() -> None:
    _, text = check(GREET, {"name": "Ana"})

    assert json.loads(text) == {
        "name": "Ana",
        "times": 3,
        "share": 0.5,
        "tone": "warm",
        "when": None,
        "home": None,
        "extra": None,
    }


def test_all_mistakes_are_said_at_once_each_naming_its_field() -> None:
    said = pointers({"times": "often", "tone": "rude", "colour": 1, "home": {"street": 5}})

    assert said["#/params/name"] == "is required."
    assert said["#/params/colour"] == "is not a parameter of this job type; remove it or check its spelling."
    assert set(said) == {
        "#/params/name",
        "#/params/times",
        "#/params/tone",
        "#/params/colour",
        "#/params/home/street",
        "#/params/home/number",
    }
    assert all(detail.endswith(".") for detail in said.values())


def test_a_pointer_escapes_what_rfc_6901_wants_escaped() -> None:
    assert "#/params/a~1b~0c" in pointers({"name": "Ana", "a/b~c": 1})


@pytest.mark.parametrize("params", [None, [], "name=Ana", 7, [["name", "Ana"]]])
def test_parameters_that_are_no_object_are_refused(params: Any) -> None:
    assert list(pointers(params)) == ["#/params"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    assert "#/params/share" in pointers({"name": "Ana", "share": number})


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("a\0b", ""),
        ({"k": "\0"}, "/k"),
        ({"\0": 1}, "/\ufffd"),
        (["\0"], "/0"),
        ("\\\0", ""),
        ([[], {"k": ("", "\0")}], "/1/k/1"),
    ],
)
def test_a_nul_character_which_postgresql_cannot_store_is_refused_where_it_stands(
    value: Any, at: str
) -> None:
    refused = pointers({"name": "Ana", "extra": value})

    assert list(refused) == [f"#/params/extra{at}"]
    assert "NUL" in refused[f"#/params/extra{at}"]


@pytest.mark.parametrize("value", ["\\u0000", r"C:\u0000 \\u0000", "\\"])
def test_text_that_only_looks_like_an_escaped_nul_is_stored_as_it_is(value: str) -> None:
    _, text = check(GREET, {"name": value})

    assert json.loads(text)["name"] == value


@pytest.mark.parametrize(
    ("given", "at"),
    [
        ({"key": "a\ud800"}, "/key"),
        ({"key": "a", "more": {"\udfff": ["**********"]}}, "/more/?"),
        ({"key": "a", "more": [1, "\udfff"]}, "/more/1"),
        ({"key": "a", "\udfff": 1}, "/?"),
    ],
)
def test_half_a_surrogate_pair_beside_a_secret_is_refused(given: dict[str, Any], at: str) -> None:
    def login(ctx: Context, key: Secret, more: Any = None) -> None: ...

    refused = pointers(given, model_of(login, where="x.py:1", name="login"))

    assert list(refused) == [f"#/params{at}"]
    assert "surrogate" in refused[f"#/params{at}"]


def test_a_parameter_whose_name_is_no_text_hides_no_other_mistake() -> None:
    refused = pointers({"name": 5, "\ud800": 1, "times": "x"})

    assert sorted(refused) == ["#/params/?", "#/params/name", "#/params/times"]


@pytest.mark.parametrize(
    ("given", "at"), [({"n": True}, "/n"), ({"n": 1, "many": [1, 2.5, False]}, "/many/2")]
)
def test_true_and_false_are_no_numbers(given: dict[str, Any], at: str) -> None:
    def count(ctx: Context, n: int, many: list[float] | None = None, sure: bool = False) -> None: ...

    model = model_of(count, where="x.py:1", name="count")

    assert list(pointers(given, model)) == [f"#/params{at}"]
    assert check(model, {"n": 1, "sure": True})[1] == '{"n":1,"many":null,"sure":true}'


def test_a_secret_is_stored_as_it_was_written() -> None:
    def login(ctx: Context, key: Secret) -> None: ...

    _, text = check(model_of(login, where="x.py:1", name="login"), {"key": "Schlüssel 🔑"})

    assert text == '{"key":"Schlüssel 🔑"}'


class NoSchema:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(lambda value: value)


def test_a_type_without_a_json_schema_is_refused_with_its_parameter() -> None:
    def odd(ctx: Context, fine: str, strange: list[NoSchema]) -> None: ...

    with pytest.raises(DeclarationError, match=r"^jobs/x.py:1: parameter 'strange' of odd .*WithJsonSchema"):
        model_of(odd, where="jobs/x.py:1", name="odd")


@pytest.mark.parametrize(
    "value", ["\ud800", {"k": "\udfff"}, ["\ud800"], {"\ud800": 1}, [{"a": {"\udfffb": 1}}]]
)
def test_half_a_character_is_refused(value: Any) -> None:
    ((at, detail),) = pointers({"name": "Ana", "extra": value}).items()

    assert at.startswith("#/params/extra") and "surrogate" in detail
    assert pointers({"name": value})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (dict[str, int], {"a\udfff": 1}),
        (list[dict[str, str]], [{}, {"\ud800": "x"}]),
        (dict[str, dict[str, int]], {"a": {"\ud800": 1}}),
        (list[str], ["a", "\ud800"]),
    ],
)
@pytest.mark.parametrize("more", [{}, {"key": "secret"}])
def test_half_a_character_in_a_key_is_refused_whatever_the_type(
    kind: Any, value: Any, more: dict[str, Any]
) -> None:
    def plain(ctx: Context, table: Any) -> None: ...

    def with_secret(ctx: Context, table: Any, key: Secret) -> None: ...

    fn = with_secret if more else plain
    fn.__annotations__["table"] = kind
    refused = pointers({"table": value, **more}, model_of(fn, where="x.py:1", name="x"))

    ((at, detail),) = refused.items()
    assert at.startswith("#/params/table") and "surrogate" in detail


def test_the_character_that_stands_for_an_unknown_one_is_a_character() -> None:
    def plain(ctx: Context, table: dict[str, str]) -> None: ...

    _, text = check(model_of(plain, where="x.py:1", name="plain"), {"table": {"\ufffd": "\ufffd"}})

    assert json.loads(text) == {"table": {"\ufffd": "\ufffd"}}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (dict[int, str], {1: "a", "1": "b"}),
        (dict[int, str], {"1": "a", "01": "b"}),
        (dict[float, str], {"1": "a", "1.0": "b"}),
        (dict[date, int], {"2026-01-01": 1, date(2026, 1, 1): 2}),
        (dict[uuid.UUID, int], {str(uuid.UUID(int=1)): 1, uuid.UUID(int=1).hex: 2}),
        (dict[bool, int], {"true": 1, "yes": 2}),
        (list[dict[int, int]], [{}, {1: 1, "1": 2}]),
        (dict[str, dict[int, int]], {"a": {1: 1, "1": 2}}),
        (dict[int, int] | None, {1: 1, "1": 2}),
        (Any, {1: "a", "1": "b"}),
        (dict, {True: 1, "true": 2}),
    ],
)
def test_two_keys_that_are_read_as_one_are_refused(kind: Any, value: Any) -> None:
    def plain(ctx: Context, table: Any) -> None: ...

    plain.__annotations__["table"] = kind
    refused = pointers({"table": value}, model_of(plain, where="x.py:1", name="plain"))

    assert list(refused) == ["#/params/table"]


def test_a_type_may_leave_keys_out_on_purpose() -> None:
    def plain(
        ctx: Context, table: Annotated[dict[int, int], AfterValidator(lambda t: {1: t[1]})]
    ) -> None: ...

    checked, _ = check(model_of(plain, where="x.py:1", name="plain"), {"table": {1: 1, 2: 2}})

    assert checked.model_dump() == {"table": {1: 1}}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [lambda n: n, lambda n: [n], lambda n: {"a": {"b": n}}, lambda n: (1, [n])])
def test_a_number_that_json_does_not_have_is_refused_inside_of_any_value(number: float, place: Any) -> None:
    assert list(pointers({"name": "Ana", "extra": place(number)})) == ["#/params/extra"]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [nested(10_000), object(), {1, object()}, lambda: None])
def test_a_value_that_cannot_be_stored_as_json_is_refused(value: Any) -> None:
    assert pointers({"name": "Ana", "extra": value})


def test_a_number_longer_than_any_use_is_refused() -> None:
    assert pointers({"name": "Ana", "times": "9" * 10_000})


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=8,
        ),
    )
)
def test_any_json_is_either_stored_as_json_or_refused_in_sentences(params: dict[str, Any]) -> None:
    try:
        _, text = check(GREET, {"name": "Ana", **params})
    except InvalidParameters as refusal:
        assert all(one.pointer.startswith("#/params") and one.detail for one in refusal.mistakes)
    else:
        assert json.loads(text, parse_constant=pytest.fail)["name"] == params.get("name", "Ana")


def test_the_limit_is_64_kib_of_what_is_stored() -> None:
    room = MAX_PARAMS_BYTES - len(check(GREET, {"name": "Ana", "extra": ""})[1])

    assert len(check(GREET, {"name": "Ana", "extra": "x" * room})[1]) == MAX_PARAMS_BYTES
    for too_much in ("x" * (room + 1), "ã" * (room // 2 + 1)):
        with pytest.raises(TooLarge, match="params: larger than the limit of 64 KiB"):
            check(GREET, {"name": "Ana", "extra": too_much})


def test_a_secret_is_stored_in_clear_and_shown_as_stars() -> None:
    def login(ctx: Context, user: str, password: Secret, tokens: list[Secret] = []) -> None: ...  # noqa: B006

    model = model_of(login, where="x.py:1", name="login")
    checked, text = check(model, {"user": "ana", "password": "s3cret", "tokens": ["a", "b"]})

    assert json.loads(text) == {"user": "ana", "password": "s3cret", "tokens": ["a", "b"]}
    assert "s3cret" not in repr(checked)
    assert "s3cret" not in str(pointers({"user": 1, "password": "s3cret"}, model))


class Login(BaseModel):
    user: str
    pin: Secret


def test_the_stars_that_stand_for_a_secret_are_no_secret() -> None:
    def login(
        ctx: Context,
        note: str,
        key: Secret,
        keys: list[Secret | None] | None = None,
        logins: dict[str, Login] | None = None,
    ) -> None: ...

    model = model_of(login, where="x.py:1", name="login")
    stars = "*" * 10
    given = {
        "note": stars,
        "key": stars,
        "keys": [None, stars],
        "logins": {"a/b": {"user": stars, "pin": stars}},
    }

    refused = pointers(given, model)

    assert set(refused) == {"#/params/key", "#/params/keys/1", "#/params/logins/a~1b/pin"}
    assert set(refused.values()) == {"type the secret itself, not the stars that are shown for it."}
    assert pointers({"note": stars, "key": Secret(stars)}, model)
    check(model, {"note": stars, "key": f"{stars}*"})


def test_what_is_stored_is_accepted_again_and_stored_the_same() -> None:
    first, text = check(
        GREET, {"name": "Ana", "when": "2026-02-28", "home": {"street": "Rua A", "number": 7}}
    )

    again, text_again = check(GREET, json.loads(text))

    assert (again, text_again) == (first, text)


def test_types_beyond_json_come_back_as_themselves() -> None:
    def bill(ctx: Context, amount: Decimal, ref: uuid.UUID, lines: tuple[str, ...] = ()) -> None: ...

    model = model_of(bill, where="x.py:1", name="bill")
    ref = uuid.uuid4()

    checked, text = check(model, {"amount": Decimal("10.10"), "ref": ref, "lines": ["a"]})

    assert check(model, json.loads(text))[0] == checked


SOME = Field(min_length=1, max_length=3)
SPLIT = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)


class Named(BaseModel):
    names: Annotated[list[str], AfterValidator(list), SPLIT, SOME]


def test_bounds_of_a_list_are_said_of_its_items_wherever_they_stand() -> None:
    def work(
        ctx: Context,
        before: Annotated[tuple[int, ...], SOME, SPLIT],
        after: Annotated[tuple[int, ...], SPLIT, SOME],
        maybe: Annotated[list[str] | None, SPLIT, SOME],
        table: Annotated[dict[str, str], SPLIT, SOME],
        text: Annotated[str, SPLIT, SOME],
        inside: Named,
        minLength: Annotated[list[str], SPLIT, SOME],  # noqa: N803  # a name is no word of the schema
        default: Annotated[list[str], SPLIT, SOME],
        given: dict[str, Any] = {"type": "array", "minLength": 1},  # noqa: B006
    ) -> None: ...

    schema = model_of(work, where="x.py:1", name="work").model_json_schema()
    fields = schema["properties"]

    of_items, of_texts = {"minItems": 1, "maxItems": 3}, {"minLength": 1, "maxLength": 3}
    for one in (
        *(fields["before"], fields["after"], fields["minLength"], fields["default"]),
        fields["maybe"]["anyOf"][0],
        schema["$defs"]["Named"]["properties"]["names"],
    ):
        assert one["type"] == "array"
        assert {key: one.get(key) for key in of_items} == of_items
        assert not one.keys() & of_texts.keys()
    assert not fields["maybe"].keys() & of_texts.keys()
    assert fields["table"]["minProperties"] == 1
    assert {key: fields["text"].get(key) for key in of_texts} == of_texts
    assert fields["given"]["default"] == {"type": "array", "minLength": 1}


def test_a_file_is_named_by_its_id() -> None:
    def thumbnail(ctx: Context, picture: FileRef) -> None: ...

    model = model_of(thumbnail, where="x.py:1", name="thumbnail")
    file = uuid.uuid4()

    assert json.loads(check(model, {"picture": str(file)})[1]) == {"picture": str(file)}
    assert "upload the file first" in pointers({"picture": "../../etc/passwd"}, model)["#/params/picture"]
    assert model.model_json_schema()["properties"]["picture"]["format"] == "esteira-file"


def test_a_bad_default_is_found_when_it_would_be_used() -> None:
    def broken(ctx: Context, n: Annotated[int, Field(ge=1)] = 0) -> None: ...

    assert "#/params/n" in pointers({}, model_of(broken, where="x.py:1", name="broken"))


def no_context() -> None: ...
def no_annotation(ctx: Context, name) -> None: ...  # type: ignore[no-untyped-def]
def stars(ctx: Context, *names: str) -> None: ...
def double_stars(ctx: Context, **names: str) -> None: ...
def hidden(ctx: Context, _secret: str) -> None: ...
def unresolved(ctx: Context, name: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def no_schema(ctx: Context, name: object.__class__.__call__) -> None: ...  # type: ignore


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (no_context, "its first parameter must be `ctx: Context`"),
        (no_annotation, "parameter 'name' of no_annotation has no annotation; write `name: str`"),
        (stars, r"takes \*names"),
        (double_stars, r"takes \*\*names"),
        (hidden, "begins with an underscore"),
        (unresolved, "Nowhere"),
        (no_schema, "the parameters of no_schema cannot be checked"),
    ],
)
def test_a_signature_that_is_no_contract_is_refused_with_its_place(fn: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=f"^jobs/x.py:12: .*{said}"):
        model_of(fn, where="jobs/x.py:12", name=fn.__name__)


@pytest.mark.parametrize("name", ["model_config", "copy", "schema", "json", "model_dump", "model_fields"])
def test_a_parameter_may_not_hide_a_part_of_the_model(name: str) -> None:
    """Pydantic's own names: refused at import, or working like any other, but never half."""
    namespace: dict[str, Any] = {"Context": Context}
    exec(f"def f(ctx: Context, {name}: str) -> None: ...", namespace)

    try:
        model = model_of(namespace["f"], where="x.py:1", name="f")
    except DeclarationError as refusal:
        assert name in str(refusal)
    else:
        checked, text = check(model, {name: "v"})
        assert (json.loads(text), getattr(checked, name)) == ({name: "v"}, "v")
