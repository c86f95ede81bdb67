"""Idempotency keys: one answer for each key, and nothing is left by a first request that failed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connection

from esteira.errors import IdempotencyInProgress, IdempotencyMismatch
from esteira.idempotency import once
from esteira.models import IdempotencyKey, Queue

pytestmark = pytest.mark.django_db


class Work:
    """Counts its runs and writes a row, as a submit would."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> dict[str, int]:
        self.runs += 1
        Queue.objects.create(name=f"row-{self.runs}")
        return {"run": self.runs}


def test_a_repeat_gets_the_first_answer_and_does_nothing() -> None:
    work = Work()

    first = once("user:1", "k", b"body", work)
    second = once("user:1", "k", b"body", work)

    assert first == ({"run": 1}, False)
    assert second == ({"run": 1}, True)
    assert (work.runs, Queue.objects.count()) == (1, 1)


def test_another_body_under_the_same_key_is_refused() -> None:
    work = Work()
    once("user:1", "k", b"body", work)

    with pytest.raises(IdempotencyMismatch):
        once("user:1", "k", b"other", work)

    assert work.runs == 1


def test_keys_of_different_scopes_do_not_meet() -> None:
    work = Work()

    once("user:1", "k", b"body", work)
    once("user:2", "k", b"body", work)

    assert work.runs == 2


def test_work_that_fails_leaves_neither_key_nor_rows() -> None:
    def fails() -> dict[str, int]:
        Queue.objects.create(name="half")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        once("user:1", "k", b"body", fails)

    assert not IdempotencyKey.objects.exists()
    assert not Queue.objects.exists()
    assert once("user:1", "k", b"other", Work()) == ({"run": 1}, False)


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_second_request_during_the_first_is_told_to_come_again() -> None:
    entered, leave = threading.Event(), threading.Event()
    answers = []

    def slow() -> dict[str, int]:
        entered.set()
        assert leave.wait(20)
        return {"run": 1}

    first = in_a_thread(lambda: answers.append(once("user:1", "k", b"body", slow)))
    assert entered.wait(20)
    try:
        with pytest.raises(IdempotencyInProgress):
            once("user:1", "k", b"body", Work())
    finally:
        leave.set()
        first.join(20)

    assert answers == [({"run": 1}, False)]
    assert once("user:1", "k", b"body", Work()) == ({"run": 1}, True)


def test_ten_at_once_do_the_work_once() -> None:
    work, answers = Work(), []
    start = threading.Barrier(10)

    def ask() -> None:
        start.wait(20)
        answers.append(once("user:1", "k", b"body", work))

    for thread in [in_a_thread(ask) for _ in range(10)]:
        thread.join(20)

    assert work.runs == 1
    assert [answer for answer, _ in answers] == [{"run": 1}] * 10
    assert sorted(replayed for _, replayed in answers) == [False] + [True] * 9


def test_the_works_own_waits_are_not_cut_short() -> None:
    def reads_its_limit() -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            return {"lock_timeout": cursor.fetchone()[0]}

    assert once("user:1", "k", b"body", reads_its_limit)[0] == {"lock_timeout": "0"}
