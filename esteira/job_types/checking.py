"""Check parameter values against a job type's model: write them as JSON, or refuse them with every mistake.

They are checked before anything is stored and again when the job runs, because a release may have changed the signature
in between. Pure: importable before Django.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import to_jsonable_python

from esteira.errors import InvalidParameters, Mistake, TooLarge
from esteira.job_types.parameters import MAY_NAME, MayName, Params, file_id
from esteira.values import lasting, misfits, storable
from esteira.values.bounds import NESTED, nests_too_deeply
from esteira.values.misfits import PARAMS
from esteira.values.spoken import name_of, said

MAX_PARAMS_BYTES = 64 * 1024
#: An escaped NUL, but not an escaped backslash followed by "u0000".
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What a model's schema says about all its values, so that no check looks for what cannot be there.

    `may_merge` has the schemas of those parameters in which two given keys may become one.
    """

    may_merge: Mapping[str, Any]
    always_lasts: bool


@lru_cache(maxsize=1024)
def _facts(model: type[Params]) -> _Facts:
    schema = model.__pydantic_core_schema__
    fields = schema.get("schema", {}).get("fields", {})
    return _Facts(
        may_merge={
            name: field["schema"] for name, field in fields.items() if storable.may_merge(field["schema"])
        },
        always_lasts=lasting.always_lasts(schema, harmless=[file_id]),
    )


def check(model: type[Params], params: Any, *, may_name: MayName | None = None) -> tuple[Params, str]:
    """Check parameters; return the model and its canonical JSON text (at most 64 KiB).

    The text must validate to the same value again, because the job runs with that. Raises InvalidParameters with every
    mistake, including those that `may_name` finds in the ids of files, or TooLarge.
    """
    before = MAY_NAME.set(may_name)
    try:
        checked = model.__pydantic_validator__.validate_python(params)
    except ValidationError as error:
        raise InvalidParameters(_all_problems(model, params, error)) from None
    finally:
        MAY_NAME.reset(before)
    facts = _facts(model)
    _refuse_merged_keys(facts.may_merge, params, checked)
    try:
        text = dump(checked)
    except Exception as error:  # a type's own serializer may raise anything
        whole = [Mistake(code="not-json", at=PARAMS, values={"reason": said(error)})]
        raise InvalidParameters(_odd_texts(params, checked) or whole) from None
    if len(text) > MAX_PARAMS_BYTES or (not text.isascii() and len(text.encode()) > MAX_PARAMS_BYTES):
        raise TooLarge("params", MAX_PARAMS_BYTES)
    if "\\u0000" in text and NUL.search(text):
        whole = [Mistake(code=storable.NUL_INSIDE, at=PARAMS)]
        raise InvalidParameters(_odd_texts(params, checked) or whole)
    if "\ufffd" in text and _odd_fields(checked):  # pydantic replaces half of a surrogate pair in a key by it
        raise InvalidParameters(_odd_texts(params, checked))
    if nests_too_deeply(text):
        raise InvalidParameters([Mistake(code="too-deep", at=PARAMS, values={"most": NESTED})])
    if mistaken := misfits.taken_for_numbers(params, text):
        raise InvalidParameters(mistaken)
    if misfits.STARS in text and (mistaken := list(misfits.starred(checked))):
        raise InvalidParameters(mistaken)
    if not facts.always_lasts or lasting.may_have_long_number(text):
        _refuse_what_does_not_last(checked, text)
    return checked, text


def _odd_texts(params: Any, checked: Params) -> list[Mistake]:
    """Return where texts that cannot be stored are: in the given parameters, or in what the type made of them."""
    return list(misfits.unstorable(params)) or _odd_fields(checked)


def _odd_fields(checked: Params) -> list[Mistake]:
    """Return the parameters that hold a text that cannot be stored; an empty list if there are none."""
    found = {name: storable.why_not(getattr(checked, name)) for name in type(checked).model_fields}
    return [Mistake(code=code, at=(*PARAMS, name)) for name, code in found.items() if code]


def _refuse_merged_keys(schemas: Mapping[str, Any], params: Any, checked: Params) -> None:
    if not schemas or not isinstance(params, Mapping):
        return
    merged = [
        name
        for name, value in params.items()
        if name in schemas and storable.merged_when_read(schemas[name], value, getattr(checked, name))
    ]
    if merged:
        raise InvalidParameters([Mistake(code="merged-keys", at=(*PARAMS, name)) for name in merged])


def _all_problems(model: type[Params], params: Any, error: ValidationError) -> list[Mistake]:
    """Return also the mistakes at which pydantic stops without a position, and those that it would have found later."""
    names = misfits.odd_names(params)
    if not names:
        return problems(error)
    found = list(misfits.unstorable(dict.fromkeys(names)))
    try:
        model.model_validate({name: value for name, value in params.items() if name not in names})
    except ValidationError as more:
        found += problems(more)
    return found


def _refuse_what_does_not_last(checked: Params, text: str) -> None:
    model = type(checked)
    try:
        again = model.model_validate(json.loads(text, parse_constant=_no_json))
    except ValidationError as error:
        raise InvalidParameters([_read_back(mistake) for mistake in problems(error)]) from None
    except Exception as error:  # a validator may raise anything, and a number may be longer than Python reads
        why = {"error": name_of(error), "reason": said(error)}
        raise InvalidParameters([Mistake(code="not-lasting-fails", at=PARAMS, values=why)]) from None
    if not _as_before(checked, again):
        changed = [name for name in model.model_fields if not _same(checked, again, name, text)]
        if changed:
            raise InvalidParameters([_changed(name, getattr(again, name)) for name in changed])


def _as_before(checked: Params, again: Params) -> bool:
    """Compare quickly, which is enough in the usual case."""
    try:
        return checked.__dict__ == again.__dict__
    except Exception:  # a class's own comparison may raise anything
        return False


def _same(checked: Params, again: Params, name: str, text: str) -> bool:
    answer = lasting.same(getattr(checked, name), getattr(again, name))
    return dump(again) == text if answer is None else answer


def _read_back(mistake: Mistake) -> Mistake:
    """Return the mistake of a stored text for a mistake that the model finds in it."""
    if message := mistake.values.get("message"):
        return Mistake(code="not-lasting-refused", at=mistake.at, values={"reason": message})
    return Mistake(code="not-lasting-mistake", at=mistake.at, values={"mistake": mistake})


def _changed(name: str, value: Any) -> Mistake:
    if isinstance(value, SecretStr):
        return Mistake(code="secret-not-lasting", at=(*PARAMS, name))
    return Mistake(code="not-lasting", at=(*PARAMS, name), values={"given": repr(value)[:80]})


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def dump(checked: Params) -> str:
    """Return the JSON that is stored: secrets in clear text (the job needs them), defaults filled in."""
    text = checked.__pydantic_serializer__.to_json(checked).decode()
    if misfits.STARS not in text:
        return text
    # Pydantic serialises a Secret as stars; only then is this slower way needed.
    text = json.dumps(
        checked.model_dump(mode="python"),
        default=_plain,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
    )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair, which is not a character") from None
    return text


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else to_jsonable_python(value)


def problems(error: ValidationError) -> list[Mistake]:
    """Return the mistakes that a model has found in parameters."""
    found = error.errors(include_url=False, include_input=False)
    return [of_pydantic(one, at=(*PARAMS, *one["loc"]), unknown="unknown-parameter") for one in found]


def of_pydantic(found: Mapping[str, Any], *, unknown: str, **place: Any) -> Mistake:
    """Turn one of pydantic's errors into a mistake; `unknown` is the code for a field that does not exist.

    A mistake that Esteira's own validators raise (`refuse`) has its code and values already. The code of any other is
    the type of pydantic's error, and its sentence is the message of pydantic or of the type's own validator.
    """
    kind, context = found["type"], found.get("ctx", {})
    if isinstance(mistake := context.get("mistake"), Mistake):
        return Mistake(code=mistake.code, values=mistake.values, **place)
    if kind in _CODES or kind == "extra_forbidden":
        return Mistake(code=_CODES.get(kind, unknown), **place)
    message = said(context["error"]) if "error" in context and kind == "value_error" else str(found["msg"])
    return Mistake(code=kind.replace("_", "-"), values={"message": message.removesuffix(".")}, **place)


#: Codes for mistakes that pydantic words in its own way. A number that Python cannot read is infinite (`json_text`).
_CODES = {"missing": "required", "finite_number": "not-finite", "int_parsing_size": "not-finite"}
