"""Make the unique key of a job from its parameters and its type's template; an error names the parameter to correct."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from esteira.errors import InvalidParameters
from esteira.job_types.decorator import fields_of
from esteira.job_types.registry import JobType
from esteira.values import bounds
from esteira.values.spoken import said
from esteira.values.storable import why_not


def unique_key(job_type: JobType, params: Any) -> str | None:
    """Return the key that a type's own template makes of checked parameters; raises InvalidParameters."""
    if not job_type.unique:
        return None
    values, pieces = dict(params), []
    for text, field, form, conversion in string.Formatter().parse(job_type.unique):
        pieces.append(_Piece(text=text, parameters=()))
        if field is not None:
            pieces.append(_filled(job_type.unique, values, field, form or "", conversion))
    for piece in pieces:
        if reason := why_not(piece.text):
            raise _refused([piece], f"makes a unique key that {reason}")
    key = "".join(piece.text for piece in pieces)
    if not bounds.UNIQUE.least <= len(key) <= bounds.UNIQUE.most:
        raise _bad_length(key, [piece for piece in pieces if piece.parameters])
    return f"{job_type.name}:{key}"  # two types never meet in one key


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    text: str
    parameters: tuple[str, ...]


def _filled(template: str, values: dict[str, Any], field: str, form: str, conversion: str | None) -> _Piece:
    placeholder = "{" + field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
    named = tuple(one for one in values if one in fields_of(placeholder))
    try:
        return _Piece(text=placeholder.format_map(values), parameters=named)
    except (
        Exception
    ) as error:  # a parameter's own formatting runs here, and may refuse its value: {day:%Y} of None
        detail = f"cannot be filled into the unique key {template!r}: {said(error)}."
        raise _refused([_Piece(text="", parameters=named)], detail) from None


def _bad_length(key: str, pieces: list[_Piece]) -> InvalidParameters:
    """Blame the longest piece for a key that is too long, and all of them for an empty one."""
    guilty, detail = pieces, "makes an empty unique key; give it a value."
    if key:
        guilty = sorted(pieces, key=lambda piece: len(piece.text))[-1:]
        detail = f"makes a unique key of {len(key)} characters; at most {bounds.UNIQUE.most}, so shorten it."
    return _refused(guilty, detail)


def _refused(guilty: list[_Piece], detail: str) -> InvalidParameters:
    named = dict.fromkeys(one for piece in guilty for one in piece.parameters)
    return InvalidParameters([{"pointer": f"#/params/{one}", "detail": detail} for one in named])
