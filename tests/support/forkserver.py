"""Starts of Python programs by a fork of a process that has loaded their libraries already.

Loading Celery, Django and what they bring takes most of a worker's start, and the tests start hundreds. The libraries
are loaded once, before any setting is known; what depends on settings is loaded by each program itself, as always.
A request is one line of JSON, {"argv": […], "env": {…}, "cwd": …, "out": …, "errors": …}; the answers are {"pid": …}
and, at the program's end, {"status": …}, a return code as subprocess has it. Everything ends with whoever started the
server.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
#: What a worker, a beat, Flower and web load that needs no settings.
LIBRARIES = (
    "celery.bin.celery",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.events.state",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.loops",
    "celery.worker.strategy",
    "django.contrib.admin",
    "django.core.management",
    "django.core.handlers.asgi",
    "django.db.backends.postgresql.base",
    "django.db.models",
    "django.forms",
    "django.template",
    "django.test.signals",
    "environ",
    "gunicorn.app.wsgiapp",
    "kombu.transport.redis",
    "psycopg",
    "pydantic",
    "redis.asyncio",
)


def main(door: str) -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    assert threading.active_count() == 1, "a fork would lose a thread"
    runpy.run_module(serve(door), run_name="__main__", alter_sys=True)


def serve(door: str) -> str:
    """Fork a process for each request; return in that process, with the name of the module to run."""
    programs: dict[int, socket.socket] = {}
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    listening = listen(door)
    server, parent = os.getpid(), os.getppid()
    while True:
        ready, _, _ = select.select([listening, woken], [], [], 1.0)
        if os.getppid() != parent:
            os._exit(0)
        if listening in ready:
            connection, _ = listening.accept()
            with connection.makefile() as lines:
                asked = json.loads(lines.readline())
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for one in (listening, woken, wakes, connection, *programs.values()):
                    one.close()
                return become(asked, server)
            programs[pid] = connection
            tell(connection, {"pid": pid})
        if woken in ready:
            woken.recv(4096)
            bury(programs)


def listen(door: str) -> socket.socket:
    """Listen at a path; once it is there, whoever connects is heard."""
    listening = socket.socket(socket.AF_UNIX)
    coming = Path(f"{door}-")
    listening.bind(str(coming))
    listening.listen()
    coming.rename(door)
    return listening


def bury(programs: dict[int, socket.socket]) -> None:
    """Tell how each that has ended did."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            connection = programs.pop(ended[0])
            tell(connection, {"status": os.waitstatus_to_exitcode(ended[1])})
            connection.close()


def tell(connection: socket.socket, what: dict[str, int]) -> None:
    with suppress(OSError):  # nobody listens any more
        connection.sendall(json.dumps(what).encode() + b"\n")


def become(asked: dict[str, Any], server: int) -> str:
    """Be like a process that was started by these words: nothing of the server is left but what it has loaded."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.setsid()
    take(0, os.open(os.devnull, os.O_RDONLY))
    for number, file in ((1, asked["out"]), (2, asked["errors"])):
        take(number, os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    module, *arguments = asked["argv"]
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    return str(module)


def take(number: int, descriptor: int) -> None:
    os.dup2(descriptor, number)
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1])
