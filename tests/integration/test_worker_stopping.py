"""What must not depend on anything while a worker stops: its limit, its guardian's end, a signal that is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from django.conf import settings

from esteira.runner import pool_process
from esteira.worker import stopping
from esteira.worker.guardian import _PID, _Guardian
from esteira.worker.identity import Identity
from esteira.worker.presence import Presence
from esteira.worker.stopping import Stop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and watches process groups")


class Broken(Presence):
    """One that cannot be announced."""

    def announce(self) -> None:
        raise RuntimeError("no announcement either")


def a_stop() -> Stop:
    me = Identity(name="worker", incarnation="none", host="here", wanted="worker")
    return Stop(SimpleNamespace(pidlock=None), Broken(None, me))


def test_the_limit_of_a_stop_holds_although_no_sign_of_life_can_be_given(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    if (child := os.fork()) == 0:
        with suppress(BaseException):  # no second pytest may go on from here
            settings.ESTEIRA_RUN_DIR = str(file / "run")
            stop = a_stop()
            stop._begin("a test", 0.3)
            threading.Event().wait(20)  # the stop ends this process long before
        os._exit(1)

    assert os.waitpid(child, 0)[1] == 0


def test_a_guardian_whose_worker_became_another_program_ends_its_groups_and_itself() -> None:
    reader, writer = os.pipe()
    guardian = _Guardian(os.pidfd_open(os.getpid()), reader)
    thread = threading.Thread(target=guardian.run, daemon=True)
    program = subprocess.Popen(["sleep", "600"], process_group=0)
    os.write(writer, _PID.pack(program.pid))
    thread.start()

    os.close(writer)

    assert program.wait(20) == -signal.SIGKILL
    thread.join(20)
    assert not thread.is_alive()


def test_a_signal_that_the_worker_ignores_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in pool_process.REFUSED}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with pool_process.busy():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == pool_process._on_signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


AGAIN = 7


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGQUIT),
        (signal.SIGHUP, signal.SIGINT),
    ],
    ids=lambda one: one.name,
)
def test_who_is_asked_to_end_does_not_start_anew_however_near_the_signals_are(
    first: signal.Signals, second: signal.Signals, tmp_path: Path
) -> None:
    """systemd sends SIGTERM and SIGHUP at once; the second may arrive at each line of the first one's handler."""
    workers = [_a_worker_that_gets(first, second, line, tmp_path) for line in range(40)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]

    assert ends == [0] * len(workers)


def test_hanging_up_alone_starts_a_worker_anew(tmp_path: Path) -> None:
    worker = _a_worker_that_gets(signal.SIGHUP, None, 0, tmp_path)

    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == AGAIN


def _a_worker_that_gets(
    first: signal.Signals, second: signal.Signals | None, at_line: int, run_dir: Path
) -> int:
    """Fork a process that gets the second signal at this line of the first one's handler, or after it."""
    if (child := os.fork()) == 0:
        with suppress(BaseException):  # no second pytest may go on from here
            settings.ESTEIRA_RUN_DIR, settings.ESTEIRA_DRAIN_SECONDS = str(run_dir), 0.3
            sys.orig_argv = [sys.executable, "-c", f"import os; os._exit({AGAIN})"]
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # no terminal
            a_stop().handle_signals()
            lines = iter(range(1000))

            def trace(frame: FrameType, *_: object) -> Any:
                if frame.f_code.co_filename == stopping.__file__ and next(lines) == at_line and second:
                    os.kill(os.getpid(), second)
                return trace

            sys.settrace(trace)
            os.kill(os.getpid(), first)
            sys.settrace(None)
            if second and next(lines) <= at_line:
                os.kill(os.getpid(), second)
            threading.Event().wait(20)  # the stop ends this process long before
        os._exit(1)
    return child
