"""THE ONLY WRITER of job state: every statement that changes a job is in this package.

Each is a compare-and-set (`UPDATE … WHERE state = … AND attempt = …`): if it changes no row, another statement came
first, which is normal. Statements work on lists; one job is a list of one. They lock their rows in the order of the ids
first, so that two of them cannot deadlock. All times are the database's `clock_timestamp()`. The process may die before
or after any statement here: each is one transaction, and the row contains everything that the next process needs.

Each statement is one constant above the function that sends it, with named parameters. Parts that several statements
share are in this module, and are inserted when the modules are imported.

`insert` T1 · `publish` `waiting` T2 · `claim` T3 T14 T15 · `lease` T4 T10 T12 · `finish` T5 T6 · `rescue` T7 T8 T9 T10
`operate` T11 T12 T13
`tasks` T1 T6 T10 of Celery tasks, `task_rows` reads them, `results` keeps their results, groups and chords
`uses` notes which files a job names, `telling` stores a running attempt's start, progress and log; they change no state
`passing` lets time pass for tests
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

#: Writes select rows by primary key, in a form that leaves the planner no other choice. Comparing an expression, not
#: the bare column, keeps it from using the partial indexes on `state` instead, which on a freshly filled table costs 10
#: times as much. Every list is given as `id = ANY(…)`: a join alone may begin with the whole table, if the planner's
#: statistics show it empty, and that costs 1000 times as much. A row finds its values in the lists by `AT`, because a
#: join with a list beside `= ANY` compares each row with each other one. If the lock finds values for each row, the
#: update joins them by the row's place (`ctid`); a row that has moved since the statement began is left to the next.
QUEUED = "(j.state || '') = 'queued'"
RUNNING = "(j.state || '') = 'running'"

#: Where the values of a row are in the lists of a statement's parameters.
AT = "array_position(%(ids)s::uuid[], j.id)"


def array(values: Iterable[object]) -> str:
    """Return ids, numbers or plain words as PostgreSQL writes an array: the driver takes three times as long."""
    return "{" + ",".join(map(str, values)) + "}"


def texts(values: Sequence[str]) -> str:
    """Return any texts that PostgreSQL can hold as it writes an array; NUL, which it cannot hold, separates them."""
    joined = "\0".join(values).replace("\\", "\\\\").replace('"', '\\"')
    if joined.count("\0") != len(values) - 1:
        raise ValueError("a text holds a NUL character")
    return '{"' + joined.replace("\0", '","') + '"}'


#: The rows that still run under these attempts, except those that another transaction locks.
MINE = f"""locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = (%(attempts)s::int[])[{AT}] AND {RUNNING}
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED)"""


def named(mine: Iterable[tuple[UUID, int]]) -> dict[str, str]:
    """Return the parameters of `MINE`."""
    pairs = list(mine)
    return {"ids": array(one for one, _ in pairs), "attempts": array(attempt for _, attempt in pairs)}


#: The same for one attempt.
MINE_ALONE = f"""locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j WHERE j.id = %(id)s AND j.attempt = %(attempt)s AND {RUNNING}
  FOR NO KEY UPDATE OF j SKIP LOCKED)"""

#: The beginning of each statement that notes an event.
NOTED = "INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)"

#: A claimed job was due. Back in the queue it is due again at once, even if the clock has stepped back since; a pause
#: is stored in `hold_until`.
DUE_AGAIN = "least(j.run_at, clock_timestamp())"

#: Ends that no process measures are counted by the statement that writes them: one row for each type, queue and state,
#: without run times. It follows `moved`, in statements that commit at once, because all processes share the row. That
#: is why T11 does not count: it may be part of a caller's long transaction.
COUNTED = """counted AS (
  INSERT INTO esteira_stat AS s (minute, type, queue, state, n)
  SELECT date_trunc('minute', clock_timestamp()), type, queue, state, count(*)
  FROM moved WHERE state IN ('failed', 'dead', 'cancelled', 'expired')
  GROUP BY type, queue, state ORDER BY type, queue, state
  ON CONFLICT (minute, type, queue, state) DO UPDATE SET n = s.n + excluded.n)"""
