"""UUIDv7 (RFC 9562): ids that arrive in about the order of their creation, so that B-trees grow at one end.

They serve only this locality: an id never orders jobs and never decides anything; the database's clock does. Python
3.14 has `uuid.uuid7`; this module replaces it on 3.11 to 3.13.
"""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, then random bits."""
    millis = time.time_ns() // 1_000_000
    return _pack(millis, int.from_bytes(os.urandom(10), "big"))


def _pack(millis: int, noise: int) -> UUID:
    rand_a, rand_b = noise >> 68, noise & ((1 << 62) - 1)
    return UUID(int=(millis << 80) | (0x7 << 76) | ((rand_a & 0xFFF) << 64) | (0b10 << 62) | rand_b)
