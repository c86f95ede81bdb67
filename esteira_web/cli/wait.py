"""`--wait`: poll jobs until they have ended; show their progress, and why a job does not start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import connection
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from esteira.db import ConnectionLost, DjangoConnection
from esteira.errors import NotFound
from esteira.states import ENDED, SHOWN_STATE_SQL, tries
from esteira.values.printable import one_line
from esteira.values.readable import number
from esteira_web.cli.display import short_id
from esteira_web.read import words
from esteira_web.read.why_waiting import why_waiting

LOOK_S = 0.2
#: The first explanation comes after this time, because a job that starts soon needs none.
EXPLAIN_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The state of a job at one poll."""

    id: UUID
    type: str
    queue: str
    state: str
    failures: int
    max_tries: int
    due_in_s: float
    done: float | None
    total: float | None
    text: str
    cancelling: bool

    @property
    def tries(self) -> int:
        return tries(self.state, self.failures)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def look(ids: Sequence[UUID]) -> dict[UUID, Seen]:
    """Read the state of jobs once."""
    rows = DjangoConnection().fetch(
        f"""SELECT id, type, queue, {SHOWN_STATE_SQL}, failures, max_failures,
              extract(epoch FROM run_at - clock_timestamp())::float8, progress_done, progress_total, progress_text,
              cancel_requested_at IS NOT NULL
            FROM esteira_job WHERE id = ANY(%s)""",
        [list(ids)],
    )
    seen = [Seen(**dict(zip(Seen.__slots__, row, strict=True))) for row in rows]
    return {one.id: replace(one, done=number(one.done), total=number(one.total)) for one in seen}


def until(
    condition: Callable[[dict[UUID, Seen]], bool],
    ids: Sequence[UUID],
    *,
    console: Console,
    within_s: float = float("inf"),
) -> dict[UUID, Seen]:
    """Poll until the condition is true or the time is up; show live lines on a terminal. Return the last states.

    If the database is unavailable, wait for it: accepted jobs do not depend on this process.
    """
    with Lines(console) as lines:
        give_up = time.monotonic() + within_s
        while True:
            seen = _look_or_wait(ids, lines)
            if condition(seen) or time.monotonic() > give_up:
                return seen
            time.sleep(LOOK_S)


def all_ended(seen: dict[UUID, Seen]) -> bool:
    return all(one.ended for one in seen.values())


def until_ended(ids: Sequence[UUID], *, console: Console, within_s: float = float("inf")) -> dict[UUID, Seen]:
    """Wait for the end of jobs."""
    return until(all_ended, ids, console=console, within_s=within_s)


def _look_or_wait(ids: Sequence[UUID], lines: Lines) -> dict[UUID, Seen]:
    while True:
        try:
            seen = look(ids)
            break
        except ConnectionLost:
            connection.close()
            lines.stall("the database does not answer; waiting for it")
            time.sleep(1)
    if len(seen) < len(set(ids)):
        raise NotFound("job", next(i for i in ids if i not in seen))
    lines.update([seen[i] for i in ids])
    return seen


class Lines:
    """One live line per job, removed at the end; if stderr is no terminal, only the reasons why jobs wait."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[UUID, TaskID] = {}
        self._reasons: dict[UUID, str] = {}
        self._explained = time.monotonic()

    def __enter__(self) -> Lines:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, seen: Sequence[Seen]) -> None:
        if time.monotonic() - self._explained > EXPLAIN_EVERY_S:
            self._explain(seen)
            self._explained = time.monotonic()
        for one in seen:
            self._draw(one)

    def stall(self, reason: str) -> None:
        for task in self._tasks.values():
            self._progress.update(task, description=reason)

    def _explain(self, seen: Sequence[Seen]) -> None:
        reasons = {one.id: why_waiting(one.queue, one.type) for one in seen if one.state == "queued"}
        new = {r for i, r in reasons.items() if r and r != self._reasons.get(i)}
        if self._progress.disable:
            for reason in sorted(new):
                self._console.print(one_line(f"Waiting: {reason}."))
        self._reasons = reasons

    def _draw(self, one: Seen) -> None:
        if one.id not in self._tasks:
            name = one_line(f"{one.type} {short_id(one.id)}")
            self._tasks[one.id] = self._progress.add_task("", name=name, total=None)
        reason = self._reasons.get(one.id) if one.state == "queued" else None
        self._progress.update(
            self._tasks[one.id],
            description=one_line(_words(one) + (f": {reason}" if reason else "")),
            total=1.0 if one.ended else one.total,
            completed=1.0 if one.ended else one.done or 0.0,
        )


def _words(one: Seen) -> str:
    if one.state == "retrying":
        return f"used {one.tries} of {one.max_tries} tries, the next in {words.span(max(0.0, one.due_in_s))}"
    if one.state == "scheduled":
        return f"starts in {words.span(max(0.0, one.due_in_s))}"
    if one.state == "running" and one.cancelling:
        return "running, stop requested"
    if one.state == "running" and one.done is not None:
        of = f" of {one.total:g}" if one.total is not None else ""
        return f"running: {one.text} {one.done:g}{of}".replace(":  ", ": ")
    return one.state
