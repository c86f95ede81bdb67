"""The one clock that times are stored by, and judged by."""

from __future__ import annotations

from typing import TypeVar

from django.db import models
from django.db.models.expressions import Func

_M_co = TypeVar("_M_co", bound=models.Model, covariant=True)


class ClockTimestamp(Func):
    """The database's clock as it stands; `now()` would be the transaction's start."""

    function = "clock_timestamp"
    template = "%(function)s()"
    output_field = models.DateTimeField()


#: A dictionary, because the reconciler of types takes a keyword for a second definition of the model's `db_now`.
_SEEN = {"db_now": ClockTimestamp()}


class ClockManager(models.Manager[_M_co]):
    """Reads the clock with every row, as `db_now`."""

    def get_queryset(self) -> models.QuerySet[_M_co]:
        rows: models.QuerySet[_M_co] = super().get_queryset().annotate(**_SEEN)
        return rows
