"""Jobs whose effect is a row: once for each success, never otherwise."""

from __future__ import annotations

import os
import sys
import time

from django.db import connection, transaction

from esteira import Context, Retry, job

FEEL_S = 0.05


@job(retries=5, backoff=0.2)
def work(ctx: Context, seconds: float = 0.05) -> None:
    """Work for a while, feeling for cancellation, then complete with an effect."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ctx.progress(seconds - left, seconds)
        time.sleep(min(FEEL_S, left))
    with ctx.completing() as done:
        _effect(ctx)
        done.result = {"attempt": ctx.attempt}


@job(retries=5, backoff=0.2)
def deaf(ctx: Context, seconds: float = 1.0) -> None:
    """Work without a check point, then complete with an effect."""
    time.sleep(seconds)
    with ctx.completing() as done:
        _effect(ctx)
        done.result = {"attempt": ctx.attempt}


@job(atomic=True, retries=5, backoff=0.2)
def transfer(ctx: Context, seconds: float = 0.05) -> dict[str, int]:
    """Have the effect first and work on inside the same transaction."""
    _effect(ctx)
    time.sleep(seconds)
    return {"attempt": ctx.attempt}


@job(retries=5, backoff=0.2)
def flaky(ctx: Context, times: int = 1) -> None:
    """Roll back an effect and fail on the first tries, succeed on the next."""
    with ctx.completing() as done:
        _effect(ctx)
        if ctx.try_number <= times:
            raise Retry("not yet", after=0.1) if ctx.try_number % 2 else ValueError("not yet")
        done.result = {"tries": ctx.try_number}


@job(retries=5, backoff=0.2)
def hooked(ctx: Context, seconds: float = 0.05) -> None:
    """Complete with an effect and a hook that raises after the commit, and complete again because of that."""
    time.sleep(seconds)
    for _ in range(2):
        try:
            with ctx.completing() as done:
                _effect(ctx)
                transaction.on_commit(_raise)
                done.result = {"attempt": ctx.attempt}
        except ConnectionError:
            continue


@job(retries=5, backoff=0.2)
def forks(ctx: Context, seconds: float = 0.05) -> None:
    """Fork a child that returns from the function, then complete with an effect."""
    child = os.fork()
    if child == 0:
        if seconds:
            return
        sys.exit(0)
    time.sleep(seconds)
    os.waitpid(child, 0)
    with ctx.completing() as done:
        _effect(ctx)
        done.result = {"attempt": ctx.attempt}


def _raise() -> None:
    raise ConnectionError("the cache is away")


def _effect(ctx: Context) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO effect (job_id, attempt) VALUES (%s, %s)", [ctx.job_id, ctx.attempt])
