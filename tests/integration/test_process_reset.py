"""What one job leaves in its process: the next one does not meet it, and what cannot be put back ends the process."""

from __future__ import annotations

import contextvars
import decimal
import gc
import locale
import logging
import logging.config
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone, translation
from pydantic import AfterValidator

from esteira import Context, job
from esteira.models import Job, JobLog
from esteira.runner.pool_process import Leave
from esteira.runner.runner import Runner
from tests.support.run_hints import run

pytestmark = pytest.mark.usefixtures("database", "job_types")

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="unset")


def innocent_after(
    runner: Runner, mischief: Callable[[], object], look: Callable[[], Any]
) -> tuple[list[Job], Any]:
    """Run a job that does mischief, and one of the same hint that looks around."""
    seen: list[Any] = []

    @job(name="test.mixed", retries=0)
    def mixed(ctx: Context, innocent: bool) -> None:
        if innocent:
            seen.append(look())
            ctx.log.warning("the innocent was here")
        else:
            mischief()

    rows = run(runner, *mixed.submit_many([{"innocent": False}, {"innocent": True}]))

    assert [(row.state, row.error) for row in rows] == [("succeeded", None)] * 2
    return rows, seen[0]


def leave_a_deleted_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


def change_the_environment() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    os.environ["ESTEIRA_LEFT"] = "1"
    os.environ.pop("PATH")
    time.tzset()


def set_hooks() -> None:
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda _: None
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    sys.settrace(lambda *_: None)


def in_minutes() -> None:
    signal.setitimer(signal.ITIMER_REAL, 300)


LEFT: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
    "zone": (lambda: timezone.activate("Asia/Tokyo"), timezone.get_current_timezone_name),
    "language": (lambda: translation.activate("pt-br"), translation.get_language),
    "context": (lambda: MARK.set("left"), MARK.get),
    "precision": (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: decimal.getcontext().prec),
    "folder": (lambda: os.chdir("/"), Path.cwd),
    "deleted folder": (leave_a_deleted_folder, Path.cwd),
    "umask": (lambda: os.umask(0o777), lambda: os.umask(os.umask(0o22))),
    "environment": (change_the_environment, lambda: (dict(os.environ), time.tzname)),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, "C"), lambda: locale.setlocale(locale.LC_ALL)),
    "warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "limit of recursion": (lambda: sys.setrecursionlimit(200), sys.getrecursionlimit),
    "limit of files": (
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1])),
        lambda: resource.getrlimit(resource.RLIMIT_FSIZE),
    ),
    "garbage": (gc.disable, gc.isenabled),
    "sockets": (lambda: socket.setdefaulttimeout(0.001), socket.getdefaulttimeout),
    "hooks": (
        set_hooks,
        lambda: (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr, sys.gettrace()),
    ),
    "children ignored": (
        lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGCHLD),
    ),
    "alarm": (in_minutes, lambda: signal.getitimer(signal.ITIMER_REAL)),
    "alarm's handler": (
        lambda: (signal.signal(signal.SIGALRM, print), signal.alarm(300)),
        lambda: (signal.getsignal(signal.SIGALRM), signal.alarm(0)),
    ),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_what_a_job_leaves_in_its_process_does_not_reach_the_next(runner: Runner, what: str) -> None:
    mischief, look = LEFT[what]
    seen: list[Any] = []

    @job(name="test.before", retries=0)
    def before(ctx: Context) -> None:
        seen.append(look())

    run(runner, before.submit().id)
    _, after = innocent_after(runner, mischief, look)

    assert after == seen[0]


def speak_german(value: Any = None) -> Any:
    translation.activate("de")
    return value


def in_a_hook() -> None:
    transaction.on_commit(speak_german)


def in_a_result() -> Iterator[int]:
    speak_german()
    yield 1


@pytest.mark.parametrize("where", ["hook", "result", "check"])
def test_the_language_that_any_code_of_a_job_chose_is_not_the_next_hints(runner: Runner, where: str) -> None:
    seen: list[Any] = []

    @job(name="test.german", retries=0, atomic=where == "hook")
    def german(ctx: Context, a: Annotated[str, AfterValidator(speak_german)] = "") -> Any:
        return in_a_hook() if where == "hook" else in_a_result()

    @job(name="test.after", retries=0)
    def after(ctx: Context) -> None:
        seen.append(translation.get_language())

    before = translation.get_language()
    with translation.override(before):
        submitted = contextvars.copy_context().run(german.submit, a="x")
        (row,) = run(runner, submitted.id)
        assert translation.get_language() == before
        (other,) = run(runner, after.submit().id)

    assert (row.state, other.state, seen) == ("succeeded", "succeeded", [before])


def test_a_hook_of_a_commit_finds_what_its_job_has_set(runner: Runner) -> None:
    seen: list[str] = []

    @job(name="test.marks", atomic=True, retries=0)
    def marks(ctx: Context) -> None:
        MARK.set("by the job")
        transaction.on_commit(lambda: seen.append(MARK.get()))

    run(runner, marks.submit().id)

    assert seen == ["by the job"]


def test_what_cannot_be_read_before_a_hint_gives_its_jobs_back_and_ends_the_process(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="test.waits", retries=0)
    def waits(ctx: Context) -> None: ...

    waiting = waits.submit().id
    with monkeypatch.context() as broken, pytest.raises(Leave):
        broken.delattr(warnings, "filters")
        runner.run_hint([str(waiting)], str(uuid4()))
    runner.between.spoiled = ""

    row = Job.objects.get(pk=waiting)
    assert (row.state, row.failures, row.suspicion) == ("queued", 0, 0)


class Mute(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError


class Incomparable(list[Any]):
    """What a job may put into the place of a list of ours."""

    def __ne__(self, other: object) -> bool:
        raise Mute


def test_what_cannot_be_put_back_nor_told_replaces_the_process(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="test.odd", retries=0)
    def odd(ctx: Context) -> None:
        warnings.filters = Incomparable(warnings.filters)

    one = odd.submit().id
    with monkeypatch.context() as afterwards, pytest.raises(Leave):
        afterwards.setattr(warnings, "filters", warnings.filters)
        runner.run_hint([str(one)], str(uuid4()))
    runner.between.spoiled = ""

    assert Job.objects.get(pk=one).state == "succeeded"


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_pool_process_starts_in_a_folder_that_was_removed(tmp_path: Path, database: None) -> None:
    @job(name="test.anywhere", retries=0)
    def anywhere(ctx: Context) -> None: ...

    waiting = anywhere.submit().id
    folder = tmp_path / "release"
    folder.mkdir()
    connection.close()
    if (child := os.fork()) == 0:
        with suppress(BaseException):  # no second pytest may go on from here
            os.chdir(folder)
            folder.rmdir()
            runner = Runner("w4/boot-4-4")
            runner.start()
            runner.run_hint([str(waiting)], str(uuid4()))
            os._exit(0)
        os._exit(1)

    assert os.waitpid(child, 0)[1] == 0
    assert Job.objects.get(pk=waiting).state == "succeeded"


def configure_anew() -> None:
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})


def silence_the_jobs() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"jobs": {"level": "ERROR", "propagate": False}},
        }
    )


def remove_all_handlers() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL)


@pytest.mark.parametrize(
    "mischief",
    [configure_anew, silence_the_jobs, remove_all_handlers, lambda: logging.disable(logging.CRITICAL)],
)
def test_a_job_that_sets_up_logging_anew_does_not_silence_the_next(
    runner: Runner, mischief: Callable[[], None]
) -> None:
    rows, _ = innocent_after(runner, mischief, lambda: None)

    assert "the innocent was here" in JobLog.objects.get(job=rows[1]).text


@pytest.mark.parametrize(
    "mischief",
    [
        lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        lambda: signal.signal(signal.SIGUSR2, lambda *_: None),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}),
        lambda: __import__("faulthandler").register(signal.SIGUSR2),
    ],
)
def test_a_time_limit_comes_although_the_job_before_took_its_signal(
    runner: Runner, mischief: Callable[[], object]
) -> None:
    @job(name="test.limited", retries=0, timeout=0.3)
    def limited(ctx: Context, slow: bool) -> None:
        if slow:
            end = time.monotonic() + 10
            while time.monotonic() < end:
                time.sleep(0.05)
        else:
            mischief()

    rows = run(runner, *limited.submit_many([{"slow": False}, {"slow": True}]))

    assert [row.state for row in rows] == ["succeeded", "failed"]
    assert rows[1].error["kind"] == "timeout"  # type: ignore[index]
