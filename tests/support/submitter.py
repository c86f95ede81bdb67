"""Somebody's program that submits jobs: asked by lines of JSON, it answers each with what was accepted.

{"type": …, "many": [params, …], "options": {…}} submits in slices; with "each": true one by one, and then
every id is written down as soon as it is accepted, so that a kill cannot take an acknowledgement back.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import IO, Any

import django
from django.db import close_old_connections

from tests.support.forkserver import listen


def main(door: str) -> None:
    """Wait at a socket, and fork a process that submits for each that connects; end with whoever started this.

    What loads slowly is loaded once for all tests; a fork knows nothing but what is in the database.
    """
    django.setup()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    parent = os.getppid()
    with listen(door) as listening:
        while os.getppid() == parent:
            if not select.select([listening], [], [], 1.0)[0]:
                continue
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                serve(connection)
                os._exit(0)
            connection.close()


def serve(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rw") as peer:
        os.dup2(os.open(peer.readline().strip(), os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
        answer(peer, {"pid": os.getpid()})
        for line in peer:
            asked = json.loads(line)
            close_old_connections()
            for one in each(asked) if asked.get("each") else [many(asked)]:
                answer(peer, one)


def answer(peer: IO[str], what: dict[str, Any]) -> None:
    peer.write(json.dumps(what) + "\n")
    peer.flush()


def many(asked: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        accepted = [str(one) for one in chosen(asked).submit_many(asked["many"])]
    except Exception as error:  # whatever it was, nothing of it was acknowledged
        return {"ids": [], "error": f"{type(error).__name__}: {error}", "seconds": [], "end": True}
    return {"ids": accepted, "seconds": [time.monotonic() - started], "end": True}


def each(asked: dict[str, Any]) -> Any:
    for params in asked["many"]:
        started = time.monotonic()
        try:
            accepted = chosen(asked).submit(**params)
        except Exception as error:  # whatever it was, this one was not acknowledged
            close_old_connections()
            yield {"ids": [], "error": f"{type(error).__name__}: {error}", "seconds": []}
        else:
            yield {"ids": [str(accepted.id)], "seconds": [time.monotonic() - started]}
    yield {"ids": [], "seconds": [], "end": True}


def chosen(asked: dict[str, Any]) -> Any:
    from esteira.job_types.registry import registry  # after django.setup()

    return registry.get(asked["type"]).options(**asked.get("options", {}))


if __name__ == "__main__":
    main(sys.argv[1])
