"""UUIDv7 (RFC 9562): ids that arrive in about the order of their creation, so that B-trees grow at one end.

They serve only this locality: an id never orders jobs and never decides anything; the database's clock does. Python
3.14 has `uuid.uuid7`; this module replaces it on 3.11 to 3.13.
"""

from __future__ import annotations

import os
import struct
import time
from uuid import UUID

_RANDOM_BITS = (1 << 62) - 1


def uuid7() -> UUID:
    """Return a new UUIDv7."""
    return uuid7s(1)[0]


def uuid7s(count: int) -> list[UUID]:
    """Return new UUIDv7s in ascending order: 48 bits of Unix milliseconds, 12 bits of their fraction, 62 random bits.

    Ascending ids of one list go to one place of an index, one behind the other, which costs the database less.
    """
    first = time.time_ns() * 4096 // 1_000_000
    noise = struct.unpack(f"{count}Q", os.urandom(8 * count))
    return [_pack(first + n, bits) for n, bits in enumerate(noise)]


def _pack(moment: int, noise: int) -> UUID:
    return UUID(
        int=(moment >> 12 << 80) | 0x7 << 76 | (moment & 0xFFF) << 64 | 0b10 << 62 | noise & _RANDOM_BITS
    )
