"""Whatever goes wrong around a job's function fails the try: counted, with a pause, an event and a kind of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from django.db import connection
from pydantic import AfterValidator, BeforeValidator

from esteira import Context, GiveUp, Retry, TimeLimitExceeded, job
from esteira.db import PrivateConnection
from esteira.job_types.exceptions import LeaseLost
from esteira.models import Job, JobEvent
from esteira.runner.runner import Runner
from tests.support.run_hints import events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


def counted(runner: Runner, job_id: UUID, kind: str) -> Job:
    """Run a job once; it must have failed one try of this kind, wait for its next one, and say so in an event."""
    (row,) = run(runner, job_id)

    assert (row.state, row.attempt, row.failures, row.suspicion) == ("queued", 1, 1, 0)
    assert row.error["kind"] == kind  # type: ignore[index]
    assert row.run_at > row.claimed_at  # type: ignore[operator]
    assert events(row) == ["retry_scheduled"]
    assert not runner.held_jobs.leased()
    return row


def store(job_id: UUID, params: str) -> None:
    """Let a job hold parameters that no submit would have accepted, as an older release may have left them."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE esteira_job SET params = %s WHERE id = %s", [params, job_id])


@pytest.mark.parametrize("after", [timedelta(minutes=5), 300, 300.0, Decimal(300)])
def test_a_retry_takes_seconds_or_a_timedelta(runner: Runner, after: Any) -> None:
    @job(name="test.later")
    def later(ctx: Context) -> None:
        raise Retry("the bank is closed", after=after)

    row = counted(runner, later.submit().id, "retry")

    assert 295 < (row.run_at - row.claimed_at).total_seconds() < 305  # type: ignore[operator]
    assert row.error["message"] == "the bank is closed"  # type: ignore[index]


TOO_LATE = 10 * 366 * 86400 + 1
NO_PAUSES = [float("nan"), float("inf"), -1, 3e11, 10**400, TOO_LATE, timedelta(seconds=-1), timedelta.max]


@pytest.mark.parametrize("after", [*NO_PAUSES, "60", object(), [60]])
def test_a_retry_after_no_pause_at_all_fails_the_try_and_names_the_field(runner: Runner, after: Any) -> None:
    @job(name="test.never")
    def never(ctx: Context) -> None:
        raise Retry("later", after=after)

    row = counted(runner, never.submit().id, "exception")

    assert row.error["message"].startswith("after: must be seconds from 0 to ten years, or a timedelta, not ")  # type: ignore[index]
    assert (row.run_at - row.claimed_at).total_seconds() < 60  # type: ignore[operator]


class Shy(Retry):
    def __init__(self) -> None:
        """Forget Retry's own fields."""


class Late(Retry):
    after: Any

    def __init__(self, after: Any) -> None:
        super().__init__("later")
        self.after = after


class Sly(Retry):
    @property  # type: ignore[override]
    def after(self) -> float:
        raise RuntimeError("not now")

    @after.setter
    def after(self, value: float) -> None: ...


@pytest.mark.parametrize("error", [Shy(), Sly(), *map(Late, [*NO_PAUSES, "60", object()])], ids=str)
def test_a_retry_with_fields_that_cannot_be_used_waits_as_long_as_any_failure(
    runner: Runner, error: Retry
) -> None:
    @job(name="test.odd", backoff=10)
    def odd(ctx: Context) -> None:
        raise error

    row = counted(runner, odd.submit().id, "retry")

    assert 4 < (row.run_at - row.claimed_at).total_seconds() < 16  # type: ignore[operator]


def odd_error(**methods: Any) -> BaseException:
    return type("Odd", (Exception,), methods)()  # type: ignore[no-any-return]


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=Meta): ...


class Halves(type):
    __name__ = "\ud800"  # type: ignore[assignment]


class Half(Exception, metaclass=Halves): ...


class Text(str):
    def replace(self, *_: Any) -> str:
        raise RuntimeError("unchangeable")


class Two(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


def exits(self: object) -> str:
    raise SystemExit(3)


ODD_ERRORS = {
    "its text raises": odd_error(__str__=lambda self: 1 / 0),
    "its text ends the process": odd_error(__str__=exits),
    "its text is no text": odd_error(__str__=lambda self: 7),
    "its text is a strange one": odd_error(__str__=lambda self: Text("a")),
    "its class has half a character in its name": Half("no"),
    "its class has no name": Nameless("no"),
    "its class cannot be asked for": Two("no"),
    "its notes are no notes": odd_error(__notes__=7),
    "its cause raises": odd_error(__cause__=property(lambda self: 1 / 0)),
    "its cause is itself": odd_error(__cause__=property(lambda self: self)),
}


@pytest.mark.parametrize("name", ODD_ERRORS)
def test_an_error_that_misbehaves_is_a_failure_like_any_other(runner: Runner, name: str) -> None:
    @job(name="test.odd")
    def odd(ctx: Context) -> None:
        raise ODD_ERRORS[name]

    counted(runner, odd.submit().id, "exception")


def test_an_error_that_misbehaves_after_the_completion_changes_nothing(runner: Runner) -> None:
    @job(name="test.odd")
    def odd(ctx: Context) -> None:
        with ctx.completing() as done:
            done.result = 1
        raise ODD_ERRORS["its class has no name"]

    (row,) = run(runner, odd.submit().id)

    assert (row.state, row.result, events(row)) == ("succeeded", 1, [])


def numbers(*, error: BaseException) -> Iterator[int]:
    yield 1
    raise error


BROKEN = {
    "at the top": lambda error: numbers(error=error),
    "inside": lambda error: {"rows": numbers(error=error)},
    "in the middle of a row": lambda error: [{"row": numbers(error=error)}],
}


@pytest.mark.parametrize("error", [KeyError("b"), ValueError("no"), TypeError("no"), RecursionError("no")])
@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_a_result_that_raises_while_it_is_read_fails_the_try(
    runner: Runner, error: BaseException, value: Any
) -> None:
    @job(name="test.stream")
    def stream(ctx: Context) -> Any:
        return value(error)

    row = counted(runner, stream.submit().id, "result")

    assert "The result could not be read" in row.error["message"]  # type: ignore[index]


def test_a_result_that_raises_inside_a_completion_fails_the_try_and_undoes_it(runner: Runner) -> None:
    @job(name="test.stream", atomic=True)
    def stream(ctx: Context) -> Any:
        return numbers(error=KeyError("b"))

    counted(runner, stream.submit().id, "result")


@pytest.mark.parametrize("atomic", [True, False])
def test_a_result_may_ask_for_what_the_function_may(runner: Runner, atomic: bool) -> None:
    """A generator's body is the function's own code; it is only called later."""

    @job(name="test.stream", atomic=atomic, timeout=0.3, retries=0)
    def stream(ctx: Context, n: int) -> Any:
        if n == 2:
            return (time.sleep(1) for _ in range(30))
        return numbers(error=GiveUp("never") if n else Retry(after=50))

    ids = [stream.options(priority="high").submit(n=n).id for n in range(3)]
    later, never, slow = [run(runner, one)[0] for one in ids]

    assert [row.error["kind"] for row in (later, never, slow)] == ["retry", "given up", "timeout"]  # type: ignore[index]


def test_a_result_that_is_no_json_is_an_error_of_its_own_kind(runner: Runner) -> None:
    @job(name="test.object")
    def returns(ctx: Context) -> Any:
        return {"x": object()}

    (row,) = run(runner, returns.submit().id)

    assert (row.state, row.failures, row.error["kind"]) == ("failed", 1, "result")  # type: ignore[index]


#: What the validator below does with a stored value; nothing while a job is submitted.
doing: list[Any] = []


def obey(value: str) -> str:
    if doing:
        doing[0]()
    return value


Obeyed = Annotated[str, AfterValidator(obey)]


@pytest.fixture(autouse=True)
def nothing_is_done() -> Iterator[None]:
    doing.clear()
    yield
    doing.clear()


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [KeyError("b"), RuntimeError("no"), ConnectionError("the directory is away")]
)
def test_a_check_of_parameters_that_breaks_fails_the_try(runner: Runner, error: BaseException) -> None:
    @job(name="test.checked")
    def checked(ctx: Context, v: Obeyed) -> None: ...

    answer = checked.submit(v="x")
    doing.append(lambda: raise_(error))
    row = counted(runner, answer.id, "parameters")

    assert type(error).__name__ in row.error["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("error", "kind"), [(SystemExit(1), "exception"), (Retry(after=50), "retry"), (LeaseLost(), "exception")]
)
def test_a_check_of_parameters_may_raise_what_it_likes(
    runner: Runner, error: BaseException, kind: str
) -> None:
    @job(name="test.checked")
    def checked(ctx: Context, v: Obeyed) -> None: ...

    answer = checked.submit(v="x")
    doing.append(lambda: raise_(error))

    counted(runner, answer.id, kind)


def test_a_check_of_parameters_has_the_jobs_time_limit(runner: Runner) -> None:
    @job(name="test.checked", timeout=0.3)
    def checked(ctx: Context, v: Obeyed) -> None: ...

    answer = checked.submit(v="x")
    doing.append(lambda: until(lambda: False, "never"))

    counted(runner, answer.id, "timeout")


def cut(value: str) -> str:
    return value.split(",", maxsplit=1)[0]


def test_parameters_that_do_not_meet_their_own_check_again_fail_the_try(runner: Runner) -> None:
    @job(name="test.tags")
    def tags(ctx: Context, tags: Annotated[str, BeforeValidator(cut)] = "a") -> None: ...

    answer = tags.submit()
    store(answer.id, '{"tags": ["a", "b"]}')

    counted(runner, answer.id, "parameters")


def test_a_stored_number_that_is_too_long_to_be_read_fails_the_try(
    runner: Runner, core: PrivateConnection
) -> None:
    @job(name="test.number")
    def number(ctx: Context, n: Any = None) -> None: ...

    answer = number.submit()
    store(answer.id, '{"n": 1' + "0" * 5000 + "}")
    runner.run_hint([str(answer.id)], "d1")

    row = core.fetch("SELECT state, failures, error->>'kind' FROM esteira_job WHERE id = %s", [answer.id])
    assert row == [("queued", 1, "parameters")]


def test_a_slow_check_that_refuses_is_a_refusal_all_the_same(runner: Runner) -> None:
    """The heartbeat thread has written by then that the job has started."""

    @job(name="test.looked_up")
    def looked_up(ctx: Context, v: Obeyed) -> None: ...

    def refuse_late() -> None:
        until(lambda: Job.objects.get().started_at, "the start is written")
        raise ValueError("is not known here")

    answer = looked_up.submit(v="x")
    doing.append(refuse_late)
    (row,) = run(runner, answer.id)

    assert (row.state, row.failures, row.suspicion, row.started_at) == ("queued", 0, 0, None)
    assert row.refused_since is not None
    assert row.hold_until is not None
    assert events(row) == ["refused"]
    assert not runner.held_jobs.leased()


def test_a_refusal_that_cannot_be_told_fails_the_try(runner: Runner) -> None:
    @job(name="test.looked_up")
    def looked_up(ctx: Context, v: Obeyed) -> None: ...

    class Mute(ValueError):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    answer = looked_up.submit(v="x")
    doing.append(lambda: raise_(Mute()))
    (row,) = run(runner, answer.id)

    assert (row.failures, events(row)) in [(1, ["retry_scheduled"]), (0, ["refused"])]


def test_a_type_that_this_process_does_not_know_is_refused(runner: Runner) -> None:
    @job(name="test.known")
    def known(ctx: Context) -> None: ...

    answer = known.submit()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE esteira_job SET type = 'test.unknown' WHERE id = %s", [answer.id])
    (row,) = run(runner, answer.id)

    assert (row.state, row.failures, events(row)) == ("queued", 0, ["refused"])
    assert "test.unknown" in JobEvent.objects.get().detail["reason"]


def test_a_job_cannot_pretend_that_its_lease_is_lost(runner: Runner) -> None:
    @job(name="test.pretends")
    def pretends(ctx: Context) -> None:
        raise LeaseLost

    counted(runner, pretends.submit().id, "exception")


@pytest.mark.parametrize("error", [KeyError("b"), Nameless("no")], ids=["plain", "odd"])
def test_what_goes_wrong_in_a_batch_harms_no_neighbour(runner: Runner, error: BaseException) -> None:
    @job(name="test.batch")
    def batch(ctx: Context, n: int) -> Any:
        return numbers(error=error) if n == 2 else n

    rows = run(runner, *batch.submit_many({"n": n} for n in range(5)))

    assert [row.state for row in rows] == ["succeeded"] * 2 + ["queued"] + ["succeeded"] * 2
    assert [row.failures for row in rows] == [0, 0, 1, 0, 0]


def test_tries_that_fail_around_the_function_are_used_up(runner: Runner) -> None:
    @job(name="test.stream", retries=2, backoff=0.01)
    def stream(ctx: Context) -> Any:
        return numbers(error=TimeLimitExceeded("its own"))

    answer = stream.submit()
    until(lambda: run(runner, answer.id)[0].state == "failed", "its tries are used up")

    row = Job.objects.get()
    assert (row.attempt, row.failures) == (3, 3)
    assert events(row) == ["retry_scheduled", "retry_scheduled", "failed"]
