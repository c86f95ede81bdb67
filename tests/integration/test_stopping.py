"""What must not depend on anything while a worker stops: its limit, its guardian's end, a signal that is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings

from esteira import pool_process
from esteira.guardian import _PID, _Guardian
from esteira.stopping import Stop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and watches process groups")


def broken() -> None:
    raise RuntimeError("no announcement either")


def test_the_limit_of_a_stop_holds_although_no_sign_of_life_can_be_given(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    if (child := os.fork()) == 0:
        with suppress(BaseException):  # no second pytest may go on from here
            settings.RUN_DIR = str(file / "run")
            stop = Stop(SimpleNamespace(pidlock=None), me=lambda: None, announce=broken)
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
