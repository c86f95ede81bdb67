"""Hints run in this very process: what is recorded of what a job's function does, and what may interrupt it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from esteira import Context, FileRef, GiveUp, Retry, TimeLimitExceeded, files, job, lease, operate
from esteira.capture import Capture
from esteira.models import Job, JobEvent, Stat
from esteira.run import Runner
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture(scope="module")
def the_runner() -> Iterator[Runner]:
    """One for all tests, as in a pool process; its heart beats until the suite ends."""
    before = signal.getsignal(signal.SIGUSR2)
    runner = Runner("w1/boot-1-1")
    runner.start()
    yield runner
    signal.signal(signal.SIGUSR2, before)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Capture)]:
        root.removeHandler(handler)


@pytest.fixture
def runner(the_runner: Runner, database: None) -> Runner:
    the_runner.core.close()
    logging.getLogger("jobs").setLevel(logging.INFO)
    return the_runner


def run(runner: Runner, *ids: UUID) -> list[Job]:
    runner.run_hint([str(one) for one in ids], str(uuid4()))
    rows = {row.pk: row for row in Job.objects.filter(pk__in=ids)}
    return [rows[one] for one in ids]


def events(row: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=row).values_list("kind", flat=True))


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
    assert "esteira/run.py" not in row.error["traceback"]  # type: ignore[index]
    assert events(row) == ["retry"]


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


def test_an_upload_is_read_by_its_reference(runner: Runner) -> None:
    @job(name="test.read")
    def read(ctx: Context, source: FileRef) -> int:
        with ctx.open(source) as file:
            return len(file.read())

    upload = files.save_upload("a.bin", None, [b"x" * 300_000])
    (row,) = run(runner, read.submit(source=str(upload.pk)).id)

    assert row.result == 300_000


def effect(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO esteira_queue (name, paused_by, reason) VALUES (%s, '', '')", [text])


def effects() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM esteira_queue ORDER BY name")
        return [row[0] for row in cursor.fetchall()]


def test_an_atomic_job_leaves_all_of_its_effects_or_none(runner: Runner) -> None:
    @job(name="test.atomic", atomic=True, retries=0)
    def move(ctx: Context, fail: bool = False) -> str:
        effect(f"effect-{fail}")
        if fail:
            raise RuntimeError("half-way")
        return "moved"

    good, bad = run(runner, move.submit().id, move.submit(fail=True).id)

    assert (good.state, good.result, bad.state) == ("succeeded", "moved", "failed")
    assert effects() == ["effect-False"]


def test_completing_records_result_and_effects_together(runner: Runner) -> None:
    @job(name="test.completing")
    def finish(ctx: Context) -> str:
        with ctx.completing() as done:
            effect("done")
            done.result = {"n": 1}
        raise RuntimeError("after the end; logged, never recorded")

    (row,) = run(runner, finish.submit().id)

    assert (row.state, row.result, row.error, effects()) == ("succeeded", {"n": 1}, None, ["done"])


def test_completing_must_be_outermost_and_happens_once(runner: Runner) -> None:
    @job(name="test.nested", retries=0)
    def nested(ctx: Context) -> None:
        with transaction.atomic(), ctx.completing():
            effect("never")

    @job(name="test.twice", retries=0)
    def twice(ctx: Context) -> None:
        with ctx.completing():
            effect("once")
        with ctx.completing():
            effect("twice")

    wrong, right = run(runner, nested.submit().id, twice.submit().id)

    assert (wrong.state, right.state) == ("failed", "succeeded")
    assert "outermost" in wrong.error["message"]  # type: ignore[index]
    assert effects() == ["once"]


def steal(job_id: UUID) -> None:
    """Let another worker own the job from now on, as after a lease that ended."""
    other = Runner("w2/boot-2-2")
    with other.core.transaction():
        other.core.fetch(
            "UPDATE esteira_job SET state = 'queued', worker = NULL, lease_until = NULL WHERE id = %s",
            [job_id],
        )
        other.core.fetch(
            """UPDATE esteira_job SET state = 'running', attempt = attempt + 1, worker = 'w2/x',
                 claimed_at = clock_timestamp(), lease_until = clock_timestamp() + interval '1 hour' WHERE id = %s""",
            [job_id],
        )
    other.core.close()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_zombies_result_is_refused_and_its_effects_are_undone(runner: Runner, atomic: bool) -> None:
    @job(name="test.zombie", atomic=atomic)
    def zombie(ctx: Context) -> str:
        if atomic:
            effect("zombie")
        steal(ctx.job_id)
        return "late"

    answer = zombie.submit()
    (row,) = run(runner, answer.id)

    assert (row.state, row.attempt, row.worker, row.result) == ("running", 2, "w2/x", None)
    assert effects() == []
    if not atomic:
        assert events(row) == ["refused"]


def test_a_broken_connection_inside_a_completion_counts_no_failure(runner: Runner) -> None:
    tries: list[int] = []

    @job(name="test.broken")
    def broken(ctx: Context) -> None:
        tries.append(ctx.attempt)
        with ctx.completing() as done:
            effect("whole")
            if len(tries) == 1:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    runner.core.fetch("SELECT pg_terminate_backend(%s)", [cursor.fetchone()[0]])
            done.result = len(tries)

    answer = broken.submit()
    (row,) = run(runner, answer.id)
    assert (row.state, row.failures, effects()) == ("queued", 0, [])

    (row,) = run(runner, answer.id)
    assert (row.state, row.attempt, row.failures, row.result, effects()) == ("succeeded", 2, 0, 2, ["whole"])


def test_the_time_limit_raises_inside_the_function(runner: Runner) -> None:
    tidied: list[str] = []

    @job(name="test.slow", timeout=0.3, retries=0)
    def slow(ctx: Context) -> None:
        try:
            time.sleep(30)
        except TimeLimitExceeded:
            tidied.append("up")
            raise

    (row,) = run(runner, slow.submit().id)

    assert (row.state, tidied) == ("failed", ["up"])
    assert row.error["kind"] == "timeout"  # type: ignore[index]


def test_a_time_limit_that_comes_while_core_code_runs_is_raised_afterwards(runner: Runner) -> None:
    reached: list[str] = []

    @job(name="test.shielded", timeout=0.2, retries=0)
    def shielded(ctx: Context) -> None:
        with runner.interrupt.shield():
            until(lambda: runner.interrupt._wanted is not None, "the limit has passed")
            reached.append("end of the shield")
        reached.append("never")

    (row,) = run(runner, shielded.submit().id)

    assert (row.state, reached) == ("failed", ["end of the shield"])


def test_a_limit_never_hits_the_next_job(runner: Runner) -> None:
    @job(name="test.brief", timeout=60)
    def brief(ctx: Context) -> None: ...

    runner.interrupt.send(object(), TimeLimitExceeded("meant for a job that is over"))
    rows = run(runner, *brief.submit_many([{}] * 5))

    assert {row.state for row in rows} == {"succeeded"}


def test_a_cancelled_job_stops_at_its_next_check(runner: Runner, settings: Any) -> None:
    settings.LEASE_SECONDS = 1

    @job(name="test.long", lease=1)
    def long(ctx: Context) -> None:
        for _ in ctx.each(range(10_000), "counting"):
            time.sleep(0.01)

    answer = long.submit()

    def ask() -> None:
        operate.cancel(answer.id, by="ana")
        connection.close()

    asker = threading.Timer(0.3, ask)
    asker.start()
    (row,) = run(runner, answer.id)
    asker.join()

    assert (row.state, row.cancel_by) == ("cancelled", "ana")
    assert events(row) == ["cancel", "cancelled"]
    assert row.progress_total == 10_000


def test_a_job_cancelled_between_feed_and_claim_never_starts(runner: Runner) -> None:
    @job(name="test.never")
    def never(ctx: Context) -> None:
        raise AssertionError("it started")

    answer = never.submit()
    operate.cancel(answer.id, by="ana")
    (row,) = run(runner, answer.id)

    assert (row.state, row.attempt) == ("cancelled", 0)


def test_a_long_job_keeps_its_lease_tells_its_start_and_its_progress(runner: Runner) -> None:
    seen: list[Job] = []

    @job(name="test.keeps", lease=1)
    def keeps(ctx: Context) -> None:
        ctx.progress(1, 4, "a \0 quarter")
        first = Job.objects.get(pk=ctx.job_id).lease_until
        until(lambda: Job.objects.get(pk=ctx.job_id).lease_until > first, "the lease is extended")  # type: ignore[operator]
        until(lambda: Job.objects.get(pk=ctx.job_id).progress_done, "the progress is stored")
        seen.append(Job.objects.get(pk=ctx.job_id))

    run(runner, keeps.submit().id)

    assert seen[0].started_at is not None
    assert (seen[0].progress_done, seen[0].progress_total, seen[0].progress_text) == (
        1,
        4,
        "a \ufffd quarter",
    )


def test_what_has_not_started_in_a_quarter_of_a_second_goes_back(runner: Runner) -> None:
    @job(name="test.mixed")
    def mixed(ctx: Context, seconds: float) -> None:
        time.sleep(seconds)

    ids = mixed.submit_many([{"seconds": lease.WAITING_MAX_S * 4}, {"seconds": 0}, {"seconds": 0}])
    rows = run(runner, *ids)

    assert [row.state for row in rows] == ["succeeded", "queued", "queued"]
    assert [(row.attempt, row.failures, row.suspicion, row.solo) for row in rows[1:]] == [
        (1, 0, 0, False)
    ] * 2


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
        assert sum(row.buckets) == row.n
    assert counts == {"succeeded": 25, "failed": 10}


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("force", [True, False])
def test_what_ignores_its_limit_or_an_operators_force_ends_with_its_process(
    force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hard limit is a failure of the running job; its neighbours of the same hint go back to run alone."""
    monkeypatch.setattr(lease, "HARD_AFTER_S", 0.3)

    @job(name="test.deaf", timeout=60 if force else 0.2, lease=1, retries=0)
    def deaf(ctx: Context) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except TimeLimitExceeded:
                pass

    ids = deaf.submit_many([{}] * 3)
    connection.close()
    if (child := os.fork()) == 0:
        runner = Runner("w3/boot-3-3")
        runner.start()
        monkeypatch.setattr(lease, "WAITING_MAX_S", 60)
        runner.run_hint([str(one) for one in ids], "d3")
        os._exit(1)
    if force:
        until(lambda: Job.objects.get(pk=ids[0]).state == "running", "the first job runs")
        operate.cancel(ids[0], by="ana", force=True)

    _, status = os.waitpid(child, 0)

    assert os.WTERMSIG(status) == signal.SIGKILL
    rows = [Job.objects.get(pk=one) for one in ids]
    assert rows[0].state == ("cancelled" if force else "failed")
    if not force:
        assert rows[0].error["kind"] == "timeout"  # type: ignore[index]
    assert [(row.state, row.solo, row.suspicion, row.failures) for row in rows[1:]] == [
        ("queued", True, 0, 0)
    ] * 2
