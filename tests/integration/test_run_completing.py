"""`atomic` and `completing`: effects and completion together, or neither; zombies are refused."""

from __future__ import annotations

import threading
from contextlib import suppress
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection, transaction

from esteira import Context, job
from esteira.models import Job, Stat
from esteira.runner.runner import Runner
from tests.support.run_hints import effect, effects, events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


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
    assert events(row) == ["late_result"]


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
    assert (row.state, row.failures, row.suspicion, effects()) == ("queued", 0, 1, [])
    assert events(row) == ["rescued"]

    until(lambda: run(runner, answer.id)[0].state == "succeeded", "it has rested, and runs again")
    (row,) = Job.objects.all()
    assert (row.state, row.attempt, row.failures, row.result, effects()) == ("succeeded", 2, 0, 2, ["whole"])


@pytest.mark.parametrize(
    "error", [ConnectionError("the cache is away"), OperationalError("its own"), SystemExit(1)]
)
def test_a_hook_that_raises_after_the_commit_lets_nobody_complete_again(
    runner: Runner, error: BaseException
) -> None:
    said: list[str] = []

    def refresh_cache() -> None:
        raise error

    @job(name="test.hook", retries=0)
    def hook(ctx: Context) -> None:
        try:
            with ctx.completing() as done:
                effect("paid")
                transaction.on_commit(refresh_cache)
                done.result = {"paid": True}
        except BaseException as raised:
            said.append(repr(raised))
            with ctx.completing() as done:
                effect("not paid")
                done.result = {"paid": False}

    (row,) = run(runner, hook.submit().id)

    assert said == [repr(error)]
    assert (row.state, row.result, effects(), events(row)) == ("succeeded", {"paid": True}, ["paid"], [])


def test_an_atomic_jobs_hook_that_raises_leaves_a_success_without_an_event(runner: Runner) -> None:
    @job(name="test.atomic_hook", retries=0, atomic=True)
    def hook(ctx: Context) -> str:
        effect("paid")
        transaction.on_commit(lambda: 1 / 0)
        return "paid"

    answer = hook.submit()
    (row,) = run(runner, answer.id)
    runner.stats.flush(runner.core)

    assert (row.state, row.result, effects(), events(row)) == ("succeeded", "paid", ["paid"], [])
    assert [stat.state for stat in Stat.objects.filter(type="test.atomic_hook")] == ["succeeded"]


def test_a_time_limit_that_passes_while_the_completion_waits_does_not_undo_it(runner: Runner) -> None:
    holder = psycopg.connect(settings.DATABASE_URL)
    tries: list[str] = []

    @job(name="test.waits", retries=0, timeout=0.5)
    def waits(ctx: Context) -> None:
        holder.execute("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [ctx.job_id])
        release.start()
        for n in range(2):
            try:
                with ctx.completing() as done:
                    effect(f"paid {n}")
                    done.result = n
                return
            except Exception as error:
                tries.append(type(error).__name__)

    def let_go() -> None:
        until(lambda: runner.interrupt._wanted is not None, "the limit has passed")
        holder.close()

    release = threading.Thread(target=let_go)
    (row,) = run(runner, waits.submit().id)
    release.join()

    assert tries == ["TimeLimitExceeded", "RuntimeError"]
    assert (row.state, row.result, effects(), events(row)) == ("succeeded", 0, ["paid 0"], [])


def test_a_completion_that_was_rolled_back_is_none(runner: Runner) -> None:
    @job(name="test.undone", retries=0)
    def undone(ctx: Context) -> None:
        with ctx.completing():
            effect("never")
            transaction.set_rollback(True)

    @job(name="test.after", retries=0)
    def after(ctx: Context) -> None:
        with suppress(ValueError), ctx.completing():
            effect("undone")
            raise ValueError
        with ctx.completing():
            effect("done")

    never, done = run(runner, undone.submit().id)[0], run(runner, after.submit().id)[0]

    assert (never.state, done.state, effects()) == ("failed", "succeeded", ["done"])


def test_completing_is_refused_where_nothing_would_commit(runner: Runner) -> None:
    @job(name="test.manual", retries=0)
    def manual(ctx: Context) -> None:
        transaction.set_autocommit(False)
        with ctx.completing():
            effect("never")

    (row,) = run(runner, manual.submit().id)

    assert (row.state, effects()) == ("failed", [])
    assert "set_autocommit(True)" in row.error["message"]  # type: ignore[index]


def test_a_constraint_that_the_commit_checks_is_the_jobs_own_failure(runner: Runner) -> None:
    @job(name="test.deferred", retries=0)
    def deferred(ctx: Context) -> None:
        with ctx.completing(), connection.cursor() as cursor:
            effect("never")
            cursor.execute(
                "INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)"
                " VALUES (gen_random_uuid(), now(), 'odd', 1, '', '', '{}')"
            )

    (row,) = run(runner, deferred.submit().id)

    assert (row.state, row.error["type"], row.suspicion) == ("failed", "IntegrityError", 0)  # type: ignore[index]
    assert effects() == []


def test_what_a_job_logged_before_it_completed_is_kept(runner: Runner) -> None:
    @job(name="test.talks", atomic=True)
    def talks(ctx: Context) -> None:
        ctx.log.info("all is well")

    (row,) = run(runner, talks.submit().id)

    assert "all is well" in "".join(row.logs.values_list("text", flat=True))


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT", "ROLLBACK; BEGIN", "COMMIT AND CHAIN"])
def test_a_job_that_ends_its_completions_transaction_itself_has_not_succeeded(
    runner: Runner, ending: str
) -> None:
    """What it wrote before is gone or committed already: a success would be recorded apart from it."""

    @job(name="t.ends", retries=3, atomic=True)
    def ends(ctx: Context) -> None:
        effect("before")
        with connection.cursor() as cursor:
            cursor.execute(ending)
        effect("after")

    (row,) = run(runner, ends.submit().id)

    error = row.error or {}
    assert (row.state, error["type"]) == ("failed", "TransactionEnded")
    assert "COMMIT or ROLLBACK of its own" in error["message"]
    assert effects() == (["before"] if ending.startswith("COMMIT") else [])
    assert events(row) == ["failed"]
