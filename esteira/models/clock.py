"""The clock by which all times are stored and compared: the database's."""

from __future__ import annotations

from typing import TypeVar

from django.db import models
from django.db.models.expressions import Func

_M_co = TypeVar("_M_co", bound=models.Model, covariant=True)


class ClockTimestamp(Func):
    """The database's clock at this moment; `now()` would be the transaction's start."""

    function = "clock_timestamp"
    template = "%(function)s()"
    output_field = models.DateTimeField()


#: A dictionary, because mypy takes a keyword argument for a second definition of the model's `db_now`.
_SEEN = {"db_now": ClockTimestamp()}


class ClockManager(models.Manager[_M_co]):
    """Adds the clock to every row that is read, as `db_now`."""

    def get_queryset(self) -> models.QuerySet[_M_co]:
        rows: models.QuerySet[_M_co] = super().get_queryset().annotate(**_SEEN)
        return rows
