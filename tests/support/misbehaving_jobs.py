"""Job types that do to their process what a job had better not do; some note each run in the table `effect`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import billiard
from django.db import connection, transaction

from esteira import Context, job

HOW_CHILDREN_LEAVE = ("return", "exit", "raise", "completing", "hook")


def _ran(ctx: Context) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO effect (job_id, attempt) VALUES (%s, %s)", [ctx.job_id, ctx.attempt])


@job(retries=0)
def forks(ctx: Context, how: str) -> str:
    """Fork a child that comes back into the core in some way; only the parent's end counts."""
    _ran(ctx)
    if how == "completing":
        with ctx.completing() as done:
            done.result = "the child" if _fork() else how
    elif how == "hook":
        with ctx.completing() as done:
            done.result = how
            transaction.on_commit(_fork)
    elif _fork():
        if how == "exit":
            sys.exit(0)
        if how == "raise":
            raise RuntimeError("in the child")
    time.sleep(0.01)
    return how


def _fork() -> bool:
    """Return whether this is the child."""
    return os.fork() == 0


@job(retries=0)
def multiplies(ctx: Context) -> Any:
    """Let a pool of forked processes calculate with the ORM; Python's own refuses to start any inside Celery's."""
    _ran(ctx)
    with billiard.get_context("fork").Pool(2) as pool:
        numbers = pool.map(_from_database, range(4))
    _ran(ctx)
    return numbers


@job(retries=0)
def shares_work(ctx: Context, how: str) -> Any:
    """Calculate beside the job's own thread, in the way that is named."""
    _ran(ctx)
    made: Any = {
        "billiard": lambda: billiard.Pool(2),
        "threads": lambda: ThreadPoolExecutor(2),
        "multiprocessing": lambda: multiprocessing.Pool(2),
        "ProcessPoolExecutor": lambda: ProcessPoolExecutor(2),
    }[how]()
    with made as pool:
        return list(pool.map(abs, [-1, 2, -3]))


def _from_database(number: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s * 2", [number])
        return int(cursor.fetchone()[0])


@job(retries=0, lease=2)
def starts_program(ctx: Context, file: str, stay: bool = True) -> None:
    """Start a program that would run for ten minutes, and wait for it, or leave it running."""
    program = subprocess.Popen(["sleep", "600"])
    Path(file).write_text(str(program.pid))
    if stay:
        program.wait()


@job(retries=0)
def closes_descriptors(ctx: Context) -> str:
    """Close every descriptor above the standard ones, as programs do that become daemons."""
    os.closerange(3, 4096)
    return "closed"


@job(retries=0)
def deaf(ctx: Context, seconds: float) -> int:
    """Sleep without a check point; return the process that ran it."""
    time.sleep(seconds)
    return os.getpid()


@job
def pid(ctx: Context) -> int:
    return os.getpid()
