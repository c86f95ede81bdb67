"""Make the unique key of a job from its parameters and its type's template; an error names the parameter to correct."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from esteira.errors import InvalidParameters, Mistake
from esteira.job_types.decorator import fields_of
from esteira.job_types.registry import JobType
from esteira.values import bounds
from esteira.values.misfits import PARAMS
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
        if code := why_not(piece.text):
            raise _refused([piece], "unique-not-storable", mistake=Mistake(code=code))
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
        guilty = [_Piece(text="", parameters=named)]
        raise _refused(guilty, "unique-unfilled", template=template, reason=said(error)) from None


def _bad_length(key: str, pieces: list[_Piece]) -> InvalidParameters:
    """Blame the longest piece for a key that is too long, and all of them for an empty one."""
    if not key:
        return _refused(pieces, "unique-empty")
    longest = max(pieces, key=lambda piece: len(piece.text))
    return _refused([longest], "unique-too-long", length=len(key), most=bounds.UNIQUE.most)


def _refused(guilty: list[_Piece], code: str, **values: Any) -> InvalidParameters:
    named = dict.fromkeys(one for piece in guilty for one in piece.parameters)
    return InvalidParameters([Mistake(code=code, at=(*PARAMS, one), values=values) for one in named])
