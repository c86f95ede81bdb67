"""Parameters: from a function's signature to a model and its JSON Schema.

The signature is the contract: each parameter after the context becomes a field of a pydantic model that refuses unknown
names. `checking` checks values against it. Pure: importable before Django.
"""

from __future__ import annotations

import inspect
import typing
import uuid
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, create_model
from pydantic_core import PydanticCustomError

from esteira.errors import DeclarationError, Mistake

_LENGTHS = ("minLength", "maxLength")
#: The units by which JSON Schema measures values other than text.
_COUNTED = {"array": "Items", "object": "Properties"}

#: Raises ValueError for the id of a file that may not be used.
MayName = Callable[[str], None]
MAY_NAME: ContextVar[MayName | None] = ContextVar("esteira.job_types.parameters.may_name", default=None)


def file_id(value: str) -> str:
    """Read a file's id; raises ValueError if it is not one, or if the current check does not allow it."""
    try:
        found = str(uuid.UUID(value))
    except ValueError:
        raise refusal(Mistake(code="not-a-file-id")) from None
    if (look := MAY_NAME.get()) is not None:
        look(found)
    return found


def refusal(mistake: Mistake) -> PydanticCustomError:
    """Return the ValueError with which a validator refuses a value, so that its code and values are kept."""
    return PydanticCustomError("mistake", "{mistake}", {"mistake": mistake})


#: The format that marks a text as a file's id in a schema.
FILE_FORMAT = "esteira-file"
#: A parameter that names an uploaded file by its id; `ctx.open()` reads it.
FileRef = Annotated[
    str,
    AfterValidator(file_id),
    Field(json_schema_extra={"format": FILE_FORMAT}, min_length=1, max_length=64),
]
#: A parameter that is stored but never shown.
Secret = SecretStr


class Params(BaseModel):
    """Base of every job type's parameter model."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON Schema; a bound after a validator gets the keyword that fits the bounded type."""
        schema = super().model_json_schema(*args, **kwargs)
        _name_bounds(schema)
        return schema


def _name_bounds(node: Any) -> None:
    """Replace minLength on lists and objects, because pydantic does not know the type behind a validator."""
    if isinstance(node, list):
        for one in node:
            _name_bounds(one)
    if not isinstance(node, dict):
        return
    if lengths := {bound: node[bound] for bound in _LENGTHS if bound in node}:
        _count(node, lengths)
    for name, value in node.items():
        if name in ("properties", "$defs"):  # its keys are names, not schema keywords
            _name_bounds(list(value.values()))
        elif name not in ("default", "examples", "const", "enum"):
            _name_bounds(value)


def _count(node: dict[str, Any], lengths: dict[str, Any]) -> None:
    kinds = [node, *(one for one in node.get("anyOf", ()) if isinstance(one, dict))]
    counted = [one for one in kinds if str(one.get("type")) in _COUNTED]
    for kind in counted:
        for bound, n in lengths.items():
            kind.setdefault(f"{bound[:3]}{_COUNTED[kind['type']]}", n)
    if counted and not any(one.get("type") == "string" or "$ref" in one for one in kinds):
        for bound in lengths:
            del node[bound]


def model_of(fn: Callable[..., Any], *, where: str, name: str) -> type[Params]:
    """Create the parameter model of a job function; raises DeclarationError naming the parameter and the place."""
    signature = inspect.signature(fn)
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except Exception as error:  # any name in an annotation may fail to resolve
        raise DeclarationError(
            "annotations-unreadable", where=where, function=name, reason=str(error)
        ) from None
    parameters = list(signature.parameters.values())
    if not parameters:
        raise DeclarationError("no-context", where=where, function=name)
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        fields[parameter.name] = _field(parameter, hints, where=where, name=name)
    try:
        with warnings.catch_warnings():
            # A parameter called `copy` or `schema` hides an attribute of the model that Esteira does not use.
            warnings.simplefilter("ignore", UserWarning)
            model = create_model(f"{name}_params", __base__=Params, **fields)
            _refuse_what_has_no_schema(model, fields, where=where, name=name)
            return model
    except DeclarationError:
        raise
    except Exception as error:  # pydantic raises several classes for a type that it cannot check
        raise DeclarationError(
            "parameters-uncheckable", where=where, function=name, reason=str(error)
        ) from None


def _refuse_what_has_no_schema(model: type[Params], fields: dict[str, Any], *, where: str, name: str) -> None:
    """Refuse a type without a JSON Schema, because pages, the API and the search for secrets read it."""
    try:
        model.model_json_schema()
    except Exception as error:  # a type's own class writes its part of the schema, and may raise anything
        guilty = next((one for one, field in fields.items() if not _has_schema(one, field)), "")
        reason = str(error).splitlines()[0]
        raise DeclarationError(
            "no-json-schema", where=where, function=name, parameter=guilty, reason=reason
        ) from None


def _has_schema(name: str, field: Any) -> bool:
    try:
        create_model("alone", __base__=Params, **{name: field}).model_json_schema()
    except Exception:  # as above
        return False
    return True


def _field(parameter: inspect.Parameter, hints: dict[str, Any], *, where: str, name: str) -> tuple[Any, Any]:
    def refuse(wording: str, shown: str = parameter.name) -> NoReturn:
        raise DeclarationError(wording, where=where, function=name, parameter=shown)

    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        refuse("star-parameter", f"{star}{parameter.name}")
    if parameter.name not in hints:
        refuse("no-annotation")
    if parameter.name.startswith("_"):
        refuse("underscore-parameter")
    if parameter.name.startswith("model_") and hasattr(Params, parameter.name):
        refuse("reserved-parameter")
    default = ... if parameter.default is parameter.empty else parameter.default
    return hints[parameter.name], default
