"""Read every stored moment, even those that Python cannot hold: 'infinity', years before the first and after 9999.

For such a value the driver raises an error, so a whole list with one such row could not be read. Here it becomes the
nearest moment that Python can hold in every time zone, so that only its own row is wrong; `bounds.is_moment` recognises
it. Other applications' tables are read over Django's connection too: a value that is read there and saved again is
stored unchanged.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.postgres import types
from psycopg.pq import Format
from psycopg.types.datetime import TimestamptzLoader

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
OID = types["timestamptz"].oid


class Beyond(datetime):
    """A moment that Python cannot hold, as the nearest one that it can; the driver writes the stored value back."""

    stored: bytes = b""


class BeyondDumper(Dumper):
    oid = OID

    def dump(self, obj: datetime) -> Buffer:
        return getattr(obj, "stored", b"") or str(obj).encode()


def read_any_moment(connection: Any, *, keep: bool) -> None:
    """Let a psycopg connection read any moment; `keep`: as one that is written back unchanged."""
    found: type[Loader] = connection.adapters.get_loader(OID, Format.TEXT) if keep else TimestamptzLoader
    if getattr(found, "timezone", UTC) is None:
        return  # Django without time zones reads naive times; Esteira's check refuses that
    connection.adapters.register_loader("timestamptz", _forgiving(found, keep))
    if keep:
        connection.adapters.register_dumper(Beyond, BeyondDumper)


@cache
def _forgiving(base: Any, keep: bool) -> type[Loader]:
    class Forgiving(base):  # type: ignore[misc]  # known at run time only: Django creates one for each time zone
        def load(self, data: Buffer) -> datetime:
            try:
                at: datetime = super().load(data)
            except (DataError, OverflowError, ValueError):
                return _nearest(bytes(data), keep)
            return at if EARLIEST <= at <= LATEST else _nearest(bytes(data), keep)

    return Forgiving


def _nearest(data: bytes, keep: bool) -> datetime:
    early = data.startswith((b"-", b"0001-")) or data.endswith(b"BC")
    at = EARLIEST if early else LATEST
    if not keep:
        return at
    beyond = Beyond(at.year, at.month, at.day, tzinfo=UTC)
    beyond.stored = data
    return beyond
