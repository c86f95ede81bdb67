"""Plain tasks run as jobs, on a worker and a keeper started by their plain commands: what callers and tasks see."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded as SoftLimit
from celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from celery.result import AsyncResult, GroupResult, ResultSet

from esteira import operate
from esteira.db import DjangoConnection
from esteira.models import Job
from esteira.redact import shown_params
from project.celery import app
from tests.support import plain_tasks as shop
from tests.support.observer import Observer
from tests.support.plain_tasks import noted
from tests.support.shop import Shop, a_run
from tests.support.waiting import until

WAIT = 20


@pytest.fixture(scope="module")
def opened(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """One shop for all tests here; they use names of their own, and leave each other's rows alone."""
    opened = Shop(tmp_path_factory.mktemp("shop") / "logs")
    with django_db_blocker.unblock():
        try:
            opened.open()
            yield opened
        finally:
            opened.close()


@pytest.fixture(autouse=True)
def unblocked(opened: Shop, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


def sent(task: Any, *args: Any, **options: Any) -> AsyncResult[Any]:
    return task.apply_async(args, **options)  # type: ignore[no-any-return]


def effects(run: str, n: int) -> list[str]:
    until(lambda: len(noted(run)) >= n, f"{n} effects")
    return noted(run)


def row(task_id: str) -> Any:
    return Job.objects.get(task_id=task_id)


def test_a_task_returns_its_result_and_is_a_job(opened: Shop) -> None:
    result = sent(shop.price, 7, 6)

    assert result.get(timeout=WAIT) == 42
    assert (result.state, result.successful(), result.ready()) == ("SUCCESS", True, True)
    job = row(result.id)
    assert (job.type, job.state, job.attempt, job.params) == (
        "shop.price", "succeeded", 1, {"*args": "(7, 6)", "**kwargs": "{}"},
    )  # fmt: skip


def test_a_failure_is_the_same_error_for_the_caller(opened: Shop) -> None:
    result = sent(shop.sold_out)

    with pytest.raises(shop.OutOfStock, match="mug"):
        result.get(timeout=WAIT)
    assert (result.state, result.failed(), type(result.result)) == ("FAILURE", True, shop.OutOfStock)
    assert "in sold_out" in str(result.traceback)
    assert row(result.id).error["type"] == "OutOfStock"


@pytest.mark.parametrize("ignored_at_the_call", [True, False])
def test_a_result_that_nobody_wants_is_not_kept(ignored_at_the_call: bool) -> None:
    run = a_run()
    result = (
        shop.pack.apply_async((run,), ignore_result=True) if ignored_at_the_call else shop.label.delay(run)
    )

    effects(run, 1)

    until(lambda: row(result.id).state == "succeeded", "the task has ended")
    assert AsyncResult(result.id).state == "PENDING"


def test_a_retry_is_another_attempt_of_the_same_row() -> None:
    run = a_run()
    result = sent(shop.order, run, 2)

    assert result.get(timeout=WAIT) == ["mug++", 2]
    assert noted(run) == ["mug 0", "mug+ 1", "mug++ 2"]
    job = row(result.id)
    assert (job.attempt, job.failures, job.state) == (3, 2, "succeeded")


def test_retries_end_with_the_last_error() -> None:
    run = a_run()

    with pytest.raises(shop.OutOfStock):
        sent(shop.stubborn, run).get(timeout=WAIT)
    assert noted(run) == ["0", "1", "2"]


def test_a_retry_without_a_kept_result_may_change_the_queue() -> None:
    run = a_run()
    result = shop.half_hearted.delay(run)

    assert effects(run, 2) == ["0", "1"]
    until(lambda: row(result.id).state == "succeeded", "the task has ended")
    assert row(result.id).queue == "mail"


def test_a_retry_that_does_not_throw_runs_beside_the_end() -> None:
    run = a_run()
    result = sent(shop.both, run)

    assert result.get(timeout=WAIT) == "first"
    assert effects(run, 2) == ["0", "1"]
    assert result.get(timeout=WAIT) == "first"


def test_ignore_ends_a_task_without_a_result() -> None:
    run = a_run()
    result = sent(shop.skip, run)

    until(lambda: row(result.id).state == "succeeded", "the task has ended")
    assert (noted(run), AsyncResult(result.id).state) == (["skipped"], "PENDING")


def test_a_rejected_message_is_a_failure_or_comes_again() -> None:
    once, again = a_run(), a_run()
    returned, not_now = sent(shop.return_to_sender, once), sent(shop.not_now, again)

    with pytest.raises(Exception, match="no such address"):
        returned.get(timeout=WAIT)
    assert not_now.get(timeout=WAIT) is True
    assert (noted(once), noted(again)) == (["returned"], ["False", "True"])


def test_links_and_errbacks_follow_an_end() -> None:
    run, broken = a_run(), a_run()

    linked = sent(shop.add, 1, 2, link=[shop.pack.si(run), shop.price.s(10)])
    failed = sent(shop.sold_out, link_error=[shop.tell.s(run=broken), shop.explain.s(run=broken)])

    assert linked.get(timeout=WAIT) == 3
    assert effects(run, 1) == ["packed"]
    until(lambda: len(linked.children or []) > 0, "the children are known")
    with pytest.raises(shop.OutOfStock):
        failed.get(timeout=WAIT)
    assert sorted(effects(broken, 2)) == ["OutOfStock in shop.sold_out", "told"]


CANVAS: dict[str, tuple[Any, Any]] = {
    "a chain": (lambda: chain(shop.add.s(1, 2), shop.price.s(10), shop.add.s(5)), 35),
    "a group": (lambda: group(shop.add.s(n, n) for n in range(20)), [2 * n for n in range(20)]),
    "a chord": (lambda: chord([shop.add.s(n, n) for n in range(10)], shop.total.s()), 90),
    "a chord of chains": (
        lambda: chord([chain(shop.add.s(n, n), shop.price.s(2)) for n in range(4)], shop.total.s()),
        24,
    ),
    "a chord in a chord": (
        lambda: chord(
            [chord([shop.add.s(1, 1), shop.add.s(2, 2)], shop.total.s()), shop.add.s(10, 10)],
            shop.total.s(),
        ),
        26,
    ),
    "a chain of groups": (
        lambda: chain(
            group(shop.add.s(n, 1) for n in range(3)),
            shop.total.s(),
            group(shop.add.s(100), shop.price.s(2)),
            shop.total.s(),
        ),
        118,
    ),
    "a group after a group": (
        lambda: chain(
            shop.add.s(1, 1), group(shop.add.s(10), shop.add.s(20)), group(shop.same.s(), shop.total.s())
        ),
        [[12, 22], 34],
    ),
    "nested groups": (
        lambda: chord([group(shop.add.s(1, 1), shop.add.s(2, 2)), shop.add.s(3, 3)], shop.same.s()),
        [4, 2, 6],
    ),
    "an empty chord": (lambda: chord([], shop.same.s()), []),
    "chunks": (lambda: shop.add.chunks(zip(range(6), range(6), strict=True), 4), [[0, 2, 4, 6], [8, 10]]),
    "a map": (lambda: shop.same.map([1, 2, 3]), [1, 2, 3]),
    "a task for another": (lambda: shop.exchange.s("a task", 3), 4),
    "a chain for a task": (lambda: shop.exchange.s("a chain", 3), 8),
    "a group for a task": (lambda: shop.exchange.s("a group", 3), [3, 4, 5]),
    "a chord for a task": (lambda: shop.exchange.s("a chord", 3), 12),
    "a replaced step of a chain": (lambda: chain(shop.exchange.s("a chain", 3), shop.add.s(1000)), 1008),
}


@pytest.mark.parametrize("name", sorted(CANVAS))
def test_canvas_comes_out_as_celery_documents_it(name: str) -> None:
    make, wanted = CANVAS[name]

    assert make().apply_async().get(timeout=WAIT) == wanted


def test_a_failed_step_ends_its_chain() -> None:
    run = a_run()
    steps = chain(shop.add.s(1, 2), shop.sold_out.s(), shop.pack.si(run))

    result = steps.apply_async(link_error=shop.tell.s(run=run))

    with pytest.raises(shop.OutOfStock):
        result.get(timeout=WAIT)
    assert (result.state, result.parent.state) == ("FAILURE", "FAILURE")  # type: ignore[union-attr]
    assert effects(run, 1) == ["told"]


def test_a_failed_part_fails_its_chord_with_its_own_error() -> None:
    run = a_run()
    body = shop.pack.si(run).on_error(shop.tell.s(run=run))

    result = chord([shop.add.s(1), shop.sold_out.s(), shop.add.s(2)])(body)

    with pytest.raises(shop.OutOfStock):
        result.get(timeout=WAIT)
    until(lambda: result.state == "FAILURE", "the body has failed")
    assert effects(run, 1) == ["told"]


def test_a_group_is_saved_and_restored() -> None:
    sent_group: Any = group(shop.add.s(n) for n in range(5)).apply_async()
    sent_group.save()

    back = GroupResult.restore(sent_group.id)

    assert back is not None
    assert back.get(timeout=WAIT) == [0, 1, 2, 3, 4]
    assert (back.completed_count(), back.successful()) == (5, True)
    assert sorted(meta["result"] for _, meta in back.iter_native()) == [0, 1, 2, 3, 4]
    assert ResultSet(list(back.results)).join(timeout=WAIT) == [0, 1, 2, 3, 4]


def test_a_task_sees_its_request() -> None:
    task_id = str(uuid4())

    seen = sent(
        shop.describe, task_id=task_id, headers={"x-shop": "yes"}, priority=4, time_limit=50, shadow="nick"
    ).get(timeout=WAIT)

    assert seen == {
        "id": task_id,
        "root": task_id,
        "parent": None,
        "group": None,
        "routing key": "default",
        "priority": 4,
        "time limits": [50, None],
        "header": "yes",
        "shadow": "nick",
        "host": True,
        "called directly": False,
    }


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (
            "ok",
            ["prerun", "before_start", "on_success SUCCESS", "success", "after_return SUCCESS", "postrun"],
        ),
        (
            "fail",
            ["prerun", "before_start", "on_failure FAILURE", "failure", "after_return FAILURE", "postrun"],
        ),
        (
            "retry",
            [
                *("prerun", "before_start", "on_retry", "retry", "postrun"),
                *(
                    "prerun",
                    "before_start",
                    "on_success SUCCESS",
                    "success",
                    "after_return SUCCESS",
                    "postrun",
                ),
            ],
        ),
    ],
)
def test_handlers_and_signals_are_called_as_celery_calls_them(how: str, wanted: list[str]) -> None:
    run = a_run()

    sent(shop.watched, run, how).get(timeout=WAIT, propagate=False)

    assert [one.removeprefix("task_") for one in effects(run, len(wanted))] == wanted


def test_a_soft_limit_is_raised_in_the_task() -> None:
    caught, raised = a_run(), a_run()
    first, second = sent(shop.slow, caught, True), sent(shop.slow, raised, False)

    assert first.get(timeout=WAIT) == "in time"
    with pytest.raises(SoftLimit):
        second.get(timeout=WAIT)
    assert noted(caught) == noted(raised) == ["late"]


def test_a_hard_limit_ends_the_process_and_the_task() -> None:
    run = a_run()
    result = sent(shop.endless, run)

    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=WAIT)
    assert (result.state, noted(run)) == ("FAILURE", ["began"])
    assert sent(shop.add, 1, 1).get(timeout=WAIT) == 2


def test_a_task_whose_process_was_killed_runs_again() -> None:
    run = a_run()

    assert sent(shop.crash_once, run).get(timeout=WAIT) == "survived"
    assert noted(run) == ["began", "began"]


def test_what_a_task_sends_in_a_rolled_back_transaction_never_runs() -> None:
    run = a_run()

    with pytest.raises(shop.OutOfStock):
        sent(shop.sends_and_fails, run).get(timeout=WAIT)
    assert noted(run) == []


def test_progress_is_seen_before_the_tasks_own_transaction_ends() -> None:
    run = a_run()

    assert sent(shop.progress, run).get(timeout=WAIT) == "done"
    assert noted(run) == ["PACKING"]


def test_a_revoked_task_that_waits_never_runs() -> None:
    run = a_run()
    result = sent(shop.pack, run, countdown=3600)

    result.revoke()

    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=WAIT)
    assert (result.state, row(result.id).state, noted(run)) == ("REVOKED", "cancelled", [])


def test_a_terminated_task_ends_with_its_process() -> None:
    run = a_run()
    result = sent(shop.long, run)
    effects(run, 1)

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=WAIT)
    assert noted(run) == ["began"]


def test_a_later_step_that_is_revoked_before_it_is_sent_never_runs() -> None:
    run = a_run()
    steps = chain(shop.pack.si(run, "first").set(countdown=1), shop.pack.si(run, "second"))

    result: Any = steps.apply_async()
    app.control.revoke(result.id)

    until(lambda: result.state == "REVOKED", "the step is revoked")
    assert noted(run) == ["first"]


def test_an_expired_task_never_runs() -> None:
    run = a_run()
    result = sent(shop.pack, run, countdown=5, expires=0.1)

    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=WAIT)
    assert noted(run) == []


def test_an_operators_retry_runs_a_failed_task_again() -> None:
    run = a_run()
    result = sent(shop.endless, run)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=WAIT)

    operate.retry(row(result.id).id, by="ana")

    assert effects(run, 2) == ["began", "began"]


def test_forget_removes_a_result() -> None:
    result = sent(shop.add, 1)
    result.get(timeout=WAIT)

    result.forget()

    assert AsyncResult(result.id).state == "PENDING"


def test_a_chord_survives_the_kill_of_the_whole_worker(opened: Shop) -> None:
    """Killed while the header runs, and started again: every part once in the sum, and one body."""
    run = a_run()
    header = [chain(shop.add.s(n), shop.short.si(run, n), shop.add.s(100)) for n in range(6)]
    result = chord(header)(shop.total.s() | shop.add.s(0))
    until(lambda: noted(run), "a second step has begun")

    os.killpg(opened.worker.pid, signal.SIGKILL)
    opened.worker.kill()
    opened.worker.start()

    assert result.get(timeout=3 * WAIT) == 615


def test_a_dead_task_is_a_lost_worker_for_its_caller(opened: Shop) -> None:
    observer = Observer(os.environ["DATABASE_URL"])
    run = a_run()
    result = sent(shop.long, run)
    effects(run, 1)

    observer.fetch("UPDATE esteira_job SET suspicion = 5 WHERE task_id = %s", [result.id])
    for child in opened.worker.children():
        child.kill()

    with pytest.raises(WorkerLostError):
        result.get(timeout=WAIT)
    assert row(result.id).state == "dead"
    observer.close()


def test_the_folder_of_the_shop_has_no_errors_of_the_core(opened: Shop) -> None:
    logs = [path.read_text() for path in Path(opened.worker.log).parent.glob("*.log")]

    assert not [line for log in logs for line in log.splitlines() if "running a hint failed" in line]


def test_people_see_a_task_with_the_arguments_that_its_sender_shows() -> None:
    result = sent(shop.same, "secret", argsrepr="('***',)")
    result.get(timeout=WAIT)

    job = row(result.id)

    assert shown_params(job.type, job.params) == {"*args": "('***',)", "**kwargs": "{}"}
    assert "message" in job.get_deferred_fields()


def test_what_follows_from_an_end_outside_the_attempt_is_recorded() -> None:
    """A part of a chord is killed at its hard limit: the chord ends, and so do the rest of its chain and its errbacks."""
    run = a_run()
    body = shop.pack.si(run, "body").on_error(shop.tell.s(run=run))
    header = [shop.add.s(1), chain(shop.endless.si(a_run()), shop.pack.si(run, "never"))]

    result = chord(header)(body)

    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=WAIT)
    assert effects(run, 1) == ["told"]
    until(lambda: result.state == "FAILURE", "the body has failed")
    assert not core_rows(
        "SELECT 1 FROM esteira_job WHERE message IS NOT NULL AND state = 'failed' AND NOT settled"
    )


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_part_that_never_runs_ends_its_chord(how: str) -> None:
    run = a_run()
    options: dict[str, Any] = {"expires": 0.1, "countdown": 1} if how == "expired" else {"countdown": 3600}
    part = shop.add.s(1).set(**options)
    result: Any = chord([shop.add.s(1), part])(shop.pack.si(run))

    if how == "revoked":
        app.control.revoke(result.parent.results[1].id)

    until(lambda: result.state == "FAILURE", "the body has failed")
    assert noted(run) == []


def core_rows(sql: str) -> list[tuple[Any, ...]]:
    return DjangoConnection().fetch(sql)
