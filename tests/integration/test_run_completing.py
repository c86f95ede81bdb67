"""`atomic` and `completing`: effects and completion together, or neither; zombies are refused."""

from __future__ import annotations

from uuid import UUID

import pytest
from django.db import connection, transaction

from esteira import Context, job
from esteira.run import Runner
from tests.support.runs import effect, effects, events, run

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
