"""UUIDv7 (RFC 9562): ids that begin with the time of their creation, so that B-trees grow at one end.

A job gets its time from the database: the statement that stores it puts `created_at`, to the microsecond, before the
random bits that the submitter has chosen. So jobs in the order of their ids are in the order of `created_at`, whatever
the clocks of the submitters show, and lists need no other index. An id never decides anything: it only orders lists.
The times of all other ids are those of the process that made them. Python 3.14 has `uuid.uuid7`; this module replaces
it on 3.11 to 3.13.
"""

from __future__ import annotations

import os
import struct
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

#: The part of a job's id that its submitter chooses: 64 bits, of which the first two are always the same.
NOISE = (1 << 64) - 1
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def uuid7() -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, then random bits."""
    millis = time.time_ns() // 1_000_000
    return _pack(millis, int.from_bytes(os.urandom(10), "big"))


def _pack(millis: int, noise: int) -> UUID:
    rand_a, rand_b = noise >> 68, noise & ((1 << 62) - 1)
    return UUID(int=(millis << 80) | (0x7 << 76) | ((rand_a & 0xFFF) << 64) | (0b10 << 62) | rand_b)


def lowest(created_at: datetime) -> UUID:
    """Return the lowest id that a job created at this moment can have; `lowest` and `highest` are bounds, not ids."""
    return UUID(int=_time_bits(created_at) << 64)


def highest(created_at: datetime) -> UUID:
    return UUID(int=_time_bits(created_at) << 64 | NOISE)


def _time_bits(at: datetime) -> int:
    """Return the first half: milliseconds, the version, and the microseconds as a 12-bit fraction (RFC 9562, 6.2)."""
    micros = max(0, (at - _EPOCH) // _MICROSECOND)
    return micros // 1000 << 16 | 0x7000 | micros % 1000 * 4096 // 1000


def noises(count: int) -> list[int]:
    """Return the second halves of the ids of jobs that are stored together, in ascending order.

    So the ids of one list are in the order of the list, and go to one place of an index, one behind the other.
    """
    found = struct.unpack(f"{count}Q", os.urandom(8 * count))
    return sorted(bits >> 2 | 0b10 << 62 for bits in found)


def first_half(created_at: str) -> str:
    """Return SQL for the first 16 hexadecimal digits of a job's id, from SQL for its creation."""
    micros = f"(date_part('epoch', {created_at}) * 1000000)::bigint"
    time_bits = f"({micros} / 1000 << 16) | 28672 | ({micros} %% 1000 * 4096 / 1000)"
    return f"lpad(to_hex({time_bits}), 16, '0')"


def of_job(created_at: str, noise: str) -> str:
    """Return SQL for the id of a job, from SQL for its creation and for a UUID with its random bits."""
    return f"({first_half(created_at)} || substr({noise}::text, 20))::uuid"
