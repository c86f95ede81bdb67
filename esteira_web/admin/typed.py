"""Form fields with the rules of the API: numbers in plain digits, texts within their bounds."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from esteira.errors import InvalidOption
from esteira.values.bounds import Text

#: A number as browsers send it. Python would accept more: `1_0`, and the digits of every script.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class NumberField(forms.FloatField):
    """A number, with or without a fraction."""

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.strip() and not _NUMBER.fullmatch(value.strip()):
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid")
        return super().to_python(value)


def checked(allowed: Text, value: Any) -> str:
    """Return a text within its bounds; raises the form's error, which is shown beside the field."""
    try:
        return allowed.check("value", value)
    except InvalidOption as error:
        raise forms.ValidationError(f"This {error.mistakes[0]}") from None
