"""Use a parameter's JSON Schema: to describe the parameter to people, and to parse the text that a person typed.

The API and the forms use the same schema, so all of them accept the same values.
"""

from __future__ import annotations

import json
from typing import Any

from esteira.job_types.registry import JobType
from esteira.values import json_text

FILE_FORMAT = "esteira-file"
Schema = dict[str, Any]


class Parameter:
    """One parameter of a job type, as its schema describes it."""

    def __init__(self, name: str, schema: Schema, defs: dict[str, Schema], *, required: bool) -> None:
        self.name = name
        self.required = required
        self.schema = schema
        self.default = schema.get("default")
        self.help: str = schema.get("description", "")
        self._defs = defs
        self._shapes = list(_shapes(schema, defs))

    @property
    def items(self) -> Parameter | None:
        """The element of the list, if this parameter takes a list."""
        for shape in self._shapes:
            if shape.get("type") == "array":
                return Parameter(self.name, shape.get("items") or {}, self._defs, required=True)
        return None

    @property
    def takes_file(self) -> bool:
        return any(shape.get("format") == FILE_FORMAT for shape in self._shapes) or (
            self.items is not None and self.items.takes_file
        )

    def read(self, text: str) -> Any:
        """Return the value of a text; raises ValueError for broken JSON.

        A parameter that takes text gets the text. Numbers, dates and similar values stay text too: the model parses
        them itself, and its errors explain what is wrong.
        """
        for choice in self._choices():
            if not isinstance(choice, str) and json.dumps(choice) == text:
                return choice
        types = {shape.get("type") for shape in self._shapes}
        if None in types or "string" in types:
            return text
        if self.is_json(text):
            return json_text.read(text)[0]
        if self.items is not None:
            return [self.items.read(text)]
        return None if not text and "null" in types else text

    def is_json(self, text: str) -> bool:
        """Return whether a text is a JSON list or object, for a parameter that takes one and does not take text."""
        types = {shape.get("type") for shape in self._shapes}
        if None in types or "string" in types:
            return False
        begins = "[" if self.items is not None else "{" if "object" in types else None
        return begins is not None and text.lstrip().startswith(begins)

    def words(self) -> str:
        """Describe the accepted values: "integer, 0 to 20"."""
        said = [_words(shape, self._defs) for shape in self._shapes if shape.get("type") != "null"]
        return " or ".join(dict.fromkeys(said)) or "anything"

    def _choices(self) -> list[Any]:
        return [c for shape in self._shapes for c in [*shape.get("enum", []), *_const(shape)]]


def parameters(job_type: JobType) -> dict[str, Parameter]:
    """Return a job type's parameters by name, in the order of its signature."""
    schema = job_type.schema()
    required = set(schema.get("required", []))
    return {
        name: Parameter(name, one, schema.get("$defs", {}), required=name in required)
        for name, one in schema.get("properties", {}).items()
    }


def _shapes(schema: Schema, defs: dict[str, Schema]) -> list[Schema]:
    """Return the alternatives of a schema, with references followed."""
    if ref := schema.get("$ref"):
        return _shapes(defs[ref.rsplit("/", 1)[-1]], defs)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return [shape for one in schema[several] for shape in _shapes(one, defs)]
    return [schema]


def _const(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else []


_FORMATS: dict[str, str] = {
    FILE_FORMAT: "file",
    "date-time": "date and time",
    "password": "secret text",
    "uri": "address",
    "email": "e-mail address",
}
_TYPES = {"string": "text", "boolean": "true or false", "object": "JSON object"}


def _words(shape: Schema, defs: dict[str, Schema]) -> str:
    choices = [*shape.get("enum", []), *_const(shape)]
    if choices:
        return "one of " + ", ".join(str(c) for c in choices) if len(choices) > 1 else str(choices[0])
    kind = str(shape.get("type", ""))
    if kind == "array":
        return _list_words(shape, defs)
    if fmt := str(shape.get("format", "")):
        return _FORMATS.get(fmt, fmt)
    if kind == "string":
        return "text" + _least_to_most(shape.get("minLength"), shape.get("maxLength"), " characters")
    if kind in ("integer", "number"):
        return kind + _least_to_most(shape.get("minimum"), shape.get("maximum")) + _above_and_below(shape)
    return _TYPES.get(kind, kind or "anything")


def _list_words(shape: Schema, defs: dict[str, Schema]) -> str:
    items = shape.get("items") or (shape.get("prefixItems") or [{}])[0]
    one = Parameter("", items, defs, required=True).words()
    size = _least_to_most(shape.get("minItems"), shape.get("maxItems"), " of them")
    return f"list of {f'({one})' if ',' in one else one}{size}"


def _least_to_most(least: float | None, most: float | None, unit: str = "") -> str:
    if unit and least is not None and least <= 1:
        least = None
    if least is not None and most is not None:
        return f", {least:g} to {most:g}{unit}"
    if most is not None:
        return f", at most {most:g}{unit}"
    return f", at least {least:g}{unit}" if least is not None else ""


def _above_and_below(shape: Schema) -> str:
    above, below = shape.get("exclusiveMinimum"), shape.get("exclusiveMaximum")
    said = [] if above is None else [f"above {above:g}"]
    said += [] if below is None else [f"below {below:g}"]
    return f", {' and '.join(said)}" if said else ""
