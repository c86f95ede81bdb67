"""What people type into forms, read as at every door: numbers in plain digits, names that are seen as they are."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from esteira.errors import InvalidOption
from esteira.values.bounds import Text

#: As browsers send it. Python reads more: `1_0`, and the digits of every script.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class NumberField(forms.FloatField):
    """A number, maybe with a fraction."""

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.strip() and not _NUMBER.fullmatch(value.strip()):
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid")
        return super().to_python(value)


def checked(allowed: Text, value: Any) -> str:
    """Return a text within its bounds; raises the form's error, which stands beside the field."""
    try:
        return allowed.check("", value)
    except InvalidOption as error:
        detail = str(error.errors[0]["detail"])
        raise forms.ValidationError(f"This {detail}") from None
