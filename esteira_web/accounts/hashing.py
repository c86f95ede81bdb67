"""Hash passwords on a few threads of their own, which have a lower priority than the threads that serve requests.

A hash takes a third of a second of a core, on purpose. Without a limit, sixteen clients that guess passwords would take
all threads that serve requests. This applies to every request that checks or sets a password: both sign-ins, the
password change, and the admin. A command or a job hashes in its own thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, partial

from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from esteira.errors import TooManyRequests

THREADS = 2
#: At most so many passwords are hashed or wait in one process, and never more than half the number of its threads.
MOST = 4
RETRY_AFTER_S = 2

_serving: ContextVar[bool] = ContextVar("esteira_web.accounts.hashing.serving", default=False)


class BesideRequests(PBKDF2PasswordHasher):
    """Django's own hasher; its hashes are the same."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        work = partial(super().encode, password, salt, iterations)
        return str(_beside(work) if _serving.get() else work())


@contextmanager
def serving() -> Iterator[None]:
    """Hash passwords in this block on the threads for passwords."""
    token = _serving.set(True)
    try:
        yield
    finally:
        _serving.reset(token)


def _beside(work: partial[str]) -> str:
    """Do the work in the pool and wait for it; raises TooManyRequests at once if the limit is reached."""
    places = _places()
    if not places.acquire(blocking=False):
        raise TooManyRequests("too-many-passwords", retry_after_s=RETRY_AFTER_S)
    try:
        return _pool().submit(work).result()
    finally:
        places.release()


@cache
def _places() -> threading.Semaphore:
    return threading.Semaphore(max(1, min(MOST, settings.WEB_THREADS // 2)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="password", initializer=_go_last)


def _go_last() -> None:
    """Lower the priority of this thread below the others of the process; on Linux each thread has its own niceness."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
