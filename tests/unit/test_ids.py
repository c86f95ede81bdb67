"""UUIDv7: the right bits, about the order of making, no repeats."""

from __future__ import annotations

import time
from uuid import RFC_4122

from esteira.ids import NOISE, noises, uuid7


def test_an_id_is_a_version_7_uuid_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000

    made = uuid7()

    assert made.version == 7
    assert made.variant == RFC_4122
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_of_one_moment_are_all_different() -> None:
    made = [uuid7() for _ in range(10_000)]

    assert len(set(made)) == 10_000
    assert {i.version for i in made} == {7}


def test_later_ids_sort_later() -> None:
    first = uuid7()
    while time.time_ns() // 1_000_000 == first.int >> 80:
        pass

    assert uuid7() > first


def test_the_random_halves_of_a_list_ascend_and_are_all_different() -> None:
    made = noises(10_000)

    assert made == sorted(set(made))
    assert all(one <= NOISE and one >> 62 == 0b10 for one in made)
    assert noises(0) == []
