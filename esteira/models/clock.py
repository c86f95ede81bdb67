"""The one clock that times are stored by."""

from __future__ import annotations

from django.db import models
from django.db.models.expressions import Func


class ClockTimestamp(Func):
    """The database's clock as it stands; `now()` would be the transaction's start."""

    function = "clock_timestamp"
    template = "%(function)s()"
    output_field = models.DateTimeField()
