"""What lists cost the database beside millions of jobs: `python -m bench.lists 5000000`.

It starts a PostgreSQL of its own in a temporary folder, writes a history of that many jobs (`bench.history`; 5,000,000
take some minutes and 4 GB), searches it in every way that the API, the pages and the command line know, and prints for
each the median and the longest time in the database, the blocks read, and what came out. Then it adds a fifth as many
jobs that wait, and searches again. Times are those of EXPLAIN ANALYZE, so they are rather too long; each statement is
run twice, once to be measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
import psycopg
from django.core.management import call_command

from bench import history
from project.local.embedded import Postgres

#: Nothing is to be kept, so nothing is flushed.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "8GB"}
TIMES = 5
LIMIT = 50


class Measured:
    """A connection with the planner's stock settings that measures what it runs."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, prepare_threshold=5)
        self.connection.execute("SELECT set_config('jit', 'off', false)")
        self.ms, self.blocks = 0.0, 0

    def fetch(self, sql: str, params: Any = ()) -> list[Any]:
        if "set_config" not in sql:
            (row,) = self.connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}", params
            )
            plan = row[0][0]
            self.ms += plan["Planning Time"] + plan["Execution Time"]
            self.blocks += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        cursor = self.connection.execute(sql, params)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.connection.transaction():
            yield


def main() -> None:
    options = _options()
    os.environ.update(
        DJANGO_SETTINGS_MODULE="project.settings", SECRET_KEY="for-the-benchmark-only", LOG_LEVEL="WARNING"
    )
    with tempfile.TemporaryDirectory(prefix="esteira-lists-") as home:
        Path(home).chmod(0o711)  # PostgreSQL refuses root and then runs as somebody who must get through
        server = Postgres(Path(home) / "postgres", options=FAST)
        try:
            server.start()
            os.environ["DATABASE_URL"] = server.url
            django.setup()
            call_command("migrate", verbosity=0)
            measure(server.url, options.jobs)
        finally:
            server.stop("immediate")


def measure(url: str, jobs: int) -> None:
    """Fill and search, and print the tables."""
    measured = Measured(url)
    measured.connection.execute("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    began = time.monotonic()
    history.past(measured.connection, jobs)
    _say(f"wrote {jobs:,} jobs in {time.monotonic() - began:.0f} s")
    _table(f"{jobs:,} jobs, never analysed", measured, _cases())
    measured.connection.execute("ANALYZE esteira_job")
    _table(f"{jobs:,} jobs, analysed", measured, _cases())
    half = jobs // 10
    history.waiting(measured.connection, half)
    history.waiting(measured.connection, half, queue="paused")
    history.past(measured.connection, half)  # newer than the paused ones, as far as lists go by id
    _table(f"the same and {2 * half:,} that wait", measured, _cases())
    measured.connection.close()


def _cases() -> Iterator[tuple[str, Callable[[Measured], str]]]:
    from esteira.search import Wanted  # noqa: PLC0415 — models need Django to be set up
    from esteira.states import SHOWN_STATES  # noqa: PLC0415

    common, middle, rare = history.TYPES[0], history.TYPES[9], history.TYPES[19]
    yield "all", _first(Wanted())
    for state in SHOWN_STATES:
        yield state, _first(Wanted(states=[state]))
        yield f"{state}, type of 1/1000", _first(Wanted(states=[state], types=[middle]))
        yield f"{state}, rare type", _first(Wanted(states=[state], types=[rare]))
        yield f"{state}, second page", _second(Wanted(states=[state]))
    yield "failed or dead", _first(Wanted(states=["failed", "dead"]))
    yield "dead, queue mail", _first(Wanted(states=["dead"], queue="mail"))
    yield "all that is open", _first(Wanted(states=["queued", "scheduled", "retrying", "running"]))
    yield "queued, queue paused", _first(Wanted(states=["queued"], queue="paused"))
    yield "queued, rare type and queue", _first(Wanted(states=["queued"], types=[rare], queue="rare"))
    for name, type in (("common", common), ("1/1000", middle), ("rare", rare), ("unknown", "bench.none")):
        yield f"type, {name}", _first(Wanted(types=[type]))
    yield "queue mail", _first(Wanted(queue="mail"))
    yield "unknown queue", _first(Wanted(queue="none"))
    yield "two types in a queue", _first(Wanted(types=[middle, rare], queue="rare"))
    yield "all, from the oldest on", _oldest(Wanted())
    yield "dead, from the oldest on", _oldest(Wanted(states=["dead"]))
    yield "rare type, from the oldest on", _oldest(Wanted(types=[rare]))
    yield "scrape of /metrics", _scrape
    yield "the end of an id", _end_of_id


def _first(wanted: Any) -> Callable[[Measured], str]:
    from esteira.search import search  # noqa: PLC0415

    return lambda measured: _told(search(measured, wanted, most=LIMIT))


def _second(wanted: Any) -> Callable[[Measured], str]:
    from esteira.search import search  # noqa: PLC0415

    def run(measured: Measured) -> str:
        first = search(measured, wanted, most=LIMIT)
        measured.ms = measured.blocks = 0
        start = first.searched_to or (first.keys[-1] if first.keys else None)
        return _told(search(measured, wanted, start=start, most=LIMIT))

    return run


def _oldest(wanted: Any) -> Callable[[Measured], str]:
    from esteira.search import search  # noqa: PLC0415

    return lambda measured: _told(search(measured, wanted, older=False, most=LIMIT))


def _scrape(measured: Measured) -> str:
    from esteira_web.server.collector import Measures  # noqa: PLC0415

    measured.connection.execute("SET enable_seqscan = off")
    number = len(list(Measures(measured).collect()))
    measured.connection.execute("RESET enable_seqscan")
    return f"{number} metrics"


def _end_of_id(measured: Measured) -> str:
    from esteira_web.read.find import _ENDING, AMONG  # noqa: PLC0415

    found = measured.fetch(_ENDING.format(among="esteira_job"), [AMONG, 8, "00000000"])
    return f"{len(found)} jobs"


def _told(found: Any) -> str:
    if found.searched_to is None:
        return f"{len(found.keys)}{' and more' if found.more else ''}"
    return f"{len(found.keys)}, ended after {found.looked_at:,} rows"


def _table(title: str, measured: Measured, cases: Iterator[tuple[str, Callable[[Measured], str]]]) -> None:
    print(f"\n{title}\n{'':34}{'median ms':>10}{'longest':>9}{'blocks':>9}  found")
    for name, run in cases:
        spent, told = [], ""
        for _ in range(TIMES):
            measured.ms = measured.blocks = 0
            told = run(measured)
            spent.append(measured.ms)
        print(
            f"{name:34}{statistics.median(spent):10.1f}{max(spent):9.1f}{measured.blocks:9,}  {told}",
            flush=True,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__)
    parser.add_argument("jobs", type=int, nargs="?", default=5_000_000, help="how many have ended (5000000)")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
