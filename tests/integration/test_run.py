"""Hints run in this very process: what is recorded of what a job's function does."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction

from esteira import Context, FileRef, GiveUp, Retry, files, job
from esteira.models import Stat
from esteira.runner.runner import Runner
from esteira.stats import BUCKETS
from tests.support.run_hints import effect, effects, events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


def test_a_success_is_recorded_with_result_times_and_no_event(runner: Runner) -> None:
    @job(name="test.add")
    def add(ctx: Context, a: int, b: int = 2) -> dict[str, Any]:
        return {"sum": a + b, "key": ctx.idempotency_key, "try": ctx.try_number}

    answer = add.submit(a=40)
    (row,) = run(runner, answer.id)

    assert (row.state, row.attempt, row.failures) == ("succeeded", 1, 0)
    assert row.result == {"sum": 42, "key": str(answer.id), "try": 1}
    assert row.created_at <= row.claimed_at <= row.started_at <= row.finished_at  # type: ignore[operator]
    assert events(row) == []


def test_a_hint_may_come_twice_late_or_name_nobody(runner: Runner) -> None:
    calls: list[int] = []

    @job(name="test.count")
    def count(ctx: Context) -> None:
        calls.append(1)

    answer = count.submit()
    runner.run_hint([str(answer.id), str(uuid4())], "d1")
    (row,) = run(runner, answer.id)

    assert calls == [1]
    assert (row.state, row.attempt) == ("succeeded", 1)


def test_a_batch_runs_in_order_and_each_ends_its_own_way(runner: Runner) -> None:
    seen: list[int] = []

    @job(name="test.batch", retries=0)
    def batch(ctx: Context, n: int) -> int:
        seen.append(n)
        if n == 3:
            raise ValueError("three")
        return n

    rows = run(runner, *batch.submit_many({"n": n} for n in range(6)))

    assert seen == list(range(6))
    assert [row.state for row in rows] == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 2
    assert rows[3].error["message"] == "three"  # type: ignore[index]
    assert all(row.batched for row in rows)


def test_an_error_is_tried_again_later_and_keeps_its_traceback(runner: Runner) -> None:
    @job(name="test.fail", retries=1, backoff=10)
    def fail(ctx: Context) -> None:
        raise RuntimeError("no luck")

    answer = fail.submit()
    (row,) = run(runner, answer.id)

    assert (row.state, row.failures, row.published_at) == ("queued", 1, None)
    assert 4 < (row.run_at - row.claimed_at).total_seconds() < 16  # type: ignore[operator]
    assert row.error["kind"] == "exception"  # type: ignore[index]
    assert 'raise RuntimeError("no luck")' in row.error["traceback"]  # type: ignore[index]
    assert "esteira/runner/" not in row.error["traceback"]  # type: ignore[index]
    assert events(row) == ["retry_scheduled"]


@pytest.mark.parametrize(
    ("error", "state", "kind"),
    [
        (GiveUp("never"), "failed", "given up"),
        (Retry(after=50), "queued", "retry"),
        (SystemExit(3), "queued", "exception"),
        (KeyboardInterrupt(), "queued", "exception"),
        (MemoryError(), "queued", "exception"),
    ],
)
def test_what_a_function_may_raise(runner: Runner, error: BaseException, state: str, kind: str) -> None:
    @job(name="test.raise", backoff=1)
    def raises(ctx: Context) -> None:
        raise error

    answer = raises.submit()
    (row,) = run(runner, answer.id)

    assert (row.state, row.failures, row.error["kind"]) == (state, 1, kind)  # type: ignore[index]
    if isinstance(error, Retry):
        assert 45 < (row.run_at - row.claimed_at).total_seconds() < 55  # type: ignore[operator]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    "error", [ValueError("a\0b"), ValueError("\ud800"), ValueError("x" * 100_000), Unspeakable()]
)
def test_errors_that_cannot_be_told_are_told_all_the_same(runner: Runner, error: Exception) -> None:
    @job(name="test.ugly", retries=0)
    def ugly(ctx: Context) -> None:
        raise error

    (row,) = run(runner, ugly.submit().id)

    assert row.state == "failed"
    assert len(row.error["message"]) <= 4096  # type: ignore[index]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"x": object()}, "JSON"),
        (float("nan"), "JSON"),
        ("x" * 300_000, "256 KiB"),
        ("\u6f22" * 90_000, "256 KiB"),  # 270,000 bytes
        ("a\0b", "NUL"),
        ("\ud800", ""),
    ],
)
def test_a_result_that_cannot_be_stored_fails_for_good_and_says_why(
    runner: Runner, result: Any, said: str
) -> None:
    @job(name="test.result")
    def returns(ctx: Context) -> Any:
        return result

    @job(name="test.fine")
    def fine(ctx: Context) -> int:
        return 1

    (row,) = run(runner, returns.submit().id)
    (other,) = run(runner, fine.submit().id)

    assert (row.state, other.state) == ("failed", "succeeded")
    assert said in row.error["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    "result",
    [
        r"NUL is written \u0000 in JSON",
        {r"\u0000": r"C:\u0000 \\u0000"},
        "\u6f22" * 85_000,
        "\x01\u2028\U0001f600",
    ],
)
def test_a_result_that_only_looks_unfit_is_stored_as_it_is(runner: Runner, result: Any) -> None:
    @job(name="test.looks", retries=0)
    def returns(ctx: Context) -> Any:
        return result

    (row,) = run(runner, returns.submit().id)

    assert (row.state, row.result) == ("succeeded", result)


def test_stored_parameters_that_this_release_refuses_go_back_untouched(runner: Runner) -> None:
    @job(name="test.grow")
    def old(ctx: Context, a: int) -> int:
        return a

    answer = old.submit(a=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE esteira_job SET params = '{\"b\": 2}' WHERE id = %s", [answer.id])
    (row,) = run(runner, answer.id)

    assert (row.state, row.failures, row.started_at) == ("queued", 0, None)
    assert row.hold_until is not None
    assert events(row) == ["refused"]


def test_the_log_is_kept_per_attempt_and_cut_at_a_mebibyte(runner: Runner) -> None:
    @job(name="test.log")
    def talk(ctx: Context, lines: int) -> None:
        ctx.log.info("first \0 line")
        logging.getLogger("some.library").warning("from a library")
        for _ in range(lines):
            ctx.log.info("x" * 1000)

    short, long = run(runner, talk.submit(lines=1).id, talk.submit(lines=2000).id)

    text = "".join(short.logs.values_list("text", flat=True))
    assert "first \ufffd line" in text
    assert "from a library" in text
    cut = "".join(long.logs.values_list("text", flat=True))
    assert len(cut) < 1_100_000
    assert cut.endswith("1 MiB of its log]\n")


def test_result_files_belong_to_the_attempt_that_succeeded(runner: Runner) -> None:
    @job(name="test.file", backoff=0.01)
    def write(ctx: Context) -> None:
        with ctx.file("out.txt", "text/plain") as out:
            out.write(f"try {ctx.try_number}".encode())
        if ctx.try_number == 1:
            raise RuntimeError("after writing")

    answer = write.submit()
    run(runner, answer.id)
    assert files.result_files(answer.id) == []
    until(lambda: run(runner, answer.id)[0].state == "succeeded", "the second try succeeds")

    (file,) = files.result_files(answer.id)
    assert b"".join(files.chunks_of(file)) == b"try 2"


def test_a_file_that_is_gone_or_too_large_is_not_tried_again(runner: Runner) -> None:
    @job(name="test.gone")
    def read_gone(ctx: Context) -> None:
        ctx.open(str(uuid4()))

    @job(name="test.large")
    def write_large(ctx: Context) -> None:
        with ctx.file("large") as file:
            for _ in range(101):
                file.write(b"x" * 1024**2)

    gone, large = run(runner, read_gone.submit().id, write_large.submit().id)

    assert (gone.state, gone.failures, gone.tries) == ("failed", 1, 1)
    assert (large.state, large.error["type"]) == ("failed", "TooLarge")  # type: ignore[index]
    assert files.result_files(large.pk) == []


def test_a_job_with_too_many_files_fails_at_once_and_says_so(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_OF_A_JOB", 3)

    @job(name="test.many")
    def write_many(ctx: Context) -> None:
        for n in range(10):
            with ctx.file(f"{n}.txt") as file:
                file.write(b"x")

    (row,) = run(runner, write_many.submit().id)

    assert (row.state, row.failures, row.error["type"]) == ("failed", 1, "TooManyFiles")  # type: ignore[index]
    assert "at most 3 result files" in row.error["message"]  # type: ignore[index]


def test_an_upload_is_read_by_its_reference(runner: Runner) -> None:
    @job(name="test.read")
    def read(ctx: Context, source: FileRef) -> int:
        with ctx.open(source) as file:
            return len(file.read())

    upload = files.save_upload("a.bin", None, [b"x" * 300_000])
    (row,) = run(runner, read.submit(source=str(upload.pk)).id)

    assert row.result == 300_000


def test_one_value_that_the_database_refuses_fails_its_own_job_only(runner: Runner) -> None:
    @job(name="test.deep")
    def deep(ctx: Context, depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    rows = run(runner, *deep.submit_many([{"depth": 1}, {"depth": 180}, {"depth": 2}]))

    assert {row.state for row in rows} <= {"succeeded", "failed"}
    assert (rows[0].state, rows[2].state) == ("succeeded", "succeeded")


def test_a_job_that_leaves_a_transaction_open_harms_nobody(runner: Runner) -> None:
    @job(name="test.careless", retries=0)
    def careless(ctx: Context) -> None:
        transaction.atomic().__enter__()
        effect("lost")

    @job(name="test.careful")
    def careful(ctx: Context) -> None:
        effect("kept")

    run(runner, careless.submit().id)
    (row,) = run(runner, careful.submit().id)

    assert row.state == "succeeded"
    assert effects() == ["kept"]


def test_runs_are_counted_once_per_minute_type_queue_and_end(runner: Runner) -> None:
    @job(name="test.counted", retries=0)
    def counted(ctx: Context, fail: bool) -> None:
        if fail:
            raise ValueError

    run(runner, *counted.submit_many([{"fail": n % 3 == 0} for n in range(30)]))
    runner.stats.flush(runner.core)
    run(runner, *counted.submit_many([{"fail": False}] * 5))
    runner.stats.flush(runner.core)

    counts: dict[str, int] = {}
    for row in Stat.objects.filter(type="test.counted"):
        counts[row.state] = counts.get(row.state, 0) + row.n
        assert sum(getattr(row, bucket) for bucket in BUCKETS) == row.n
    assert counts == {"succeeded": 25, "failed": 10}
