"""The context that a job function gets, tested with the context in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esteira import Cancelled, LocalContext
from esteira.errors import NotFound


def test_the_idempotency_key_is_the_same_for_every_attempt() -> None:
    ctx = LocalContext(attempt=1)
    first = ctx.idempotency_key

    ctx.attempt = 5

    assert ctx.idempotency_key == first == str(ctx.job_id)


def test_each_yields_everything_and_ends_at_its_total() -> None:
    ctx = LocalContext()

    assert list(ctx.each(["a", "b", "c"], "Letters")) == ["a", "b", "c"]

    assert ctx.progress_calls[0] == (0, 3, "Letters")
    assert ctx.progress_calls[-1] == (3, 3, "Letters")


def test_each_reports_a_few_times_a_second_however_many_items() -> None:
    ctx = LocalContext()

    assert sum(1 for _ in ctx.each(range(50_000))) == 50_000

    assert len(ctx.progress_calls) < 20


def test_each_takes_an_iterable_of_unknown_length() -> None:
    ctx = LocalContext()

    def letters() -> Iterator[str]:
        yield from "ab"

    assert list(ctx.each(letters())) == ["a", "b"]
    assert ctx.progress_calls[-1] == (2, None, "")


def test_each_over_nothing_is_done_at_once() -> None:
    ctx = LocalContext()

    assert list(ctx.each([])) == []
    assert ctx.progress_calls == [(0, 0, "")]


def test_every_call_on_a_cancelled_context_is_a_check_point() -> None:
    ctx = LocalContext(files={"f": b"x"})
    ctx.cancel()

    assert ctx.cancelled
    for call in (
        lambda: ctx.progress(1),
        lambda: ctx.file("a.txt"),
        lambda: ctx.open("f"),
        lambda: ctx.completing(),
        lambda: list(ctx.each([1])),
    ):
        with pytest.raises(Cancelled):
            call()


def test_a_result_file_counts_once_it_is_closed() -> None:
    ctx = LocalContext()

    with ctx.file("report.csv", "text/csv") as out:
        out.write(b"a,b\n")
        assert "report.csv" not in ctx.files

    assert ctx.files == {"report.csv": b"a,b\n"}


def test_a_file_whose_writing_failed_does_not_count() -> None:
    ctx = LocalContext()

    with pytest.raises(ZeroDivisionError), ctx.file("half.csv") as out:
        out.write(b"a")
        raise ZeroDivisionError

    assert ctx.files == {}


def test_an_upload_is_read_by_its_reference_and_a_missing_one_is_named() -> None:
    ctx = LocalContext(files={"abc": b"picture"})

    assert ctx.open("abc").read() == b"picture"
    with pytest.raises(NotFound, match="there is no file nope"):
        ctx.open("nope")


def test_completing_records_the_result_at_its_end_only_without_an_exception() -> None:
    ctx = LocalContext()

    with ctx.completing() as done:
        done.result = {"rows": 3}
    with pytest.raises(ZeroDivisionError), ctx.completing() as done:
        done.result = {"rows": 4}
        raise ZeroDivisionError

    assert ctx.host.completed == [{"rows": 3}]
