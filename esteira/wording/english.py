"""The English templates of all errors of the core, by code, and how they write lists, sizes and spans of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SENTENCES: dict[str, str] = {
    # --- Errors that a caller may catch ---
    "error": "Esteira refused the request.",
    "at-field": "{field}: {detail}",
    "other": "{message}.",
    "invalid-parameters": "{mistakes:pointers}",
    "invalid-request": "{mistakes:fields}",
    "unknown-job-type": "there is no job type {name}. Known: {known:list}.",
    "unknown-job-type.none-known": "there is no job type {name}.",
    "unknown-queue": "no worker reads {name}; use one of {known:list}, or add it to JOB_QUEUES.",
    "too-large": "larger than the limit of {limit:size}.",
    # --- Sends of Celery tasks ---
    "no-queue-bound": "{exchange!r} with the routing key {routing_key!r} leads to no queue of task_queues; add it "
    "there.",
    "old-protocol": "must be 2: a message of protocol 1 has no headers.",
    "is-a-job-type": "{name!r} is a job type; submit it by its own submit().",
    "reserved-queue": "must not begin with 'behind.', which names a key of Esteira's own.",
    "not-a-date": "must be a date and time, not {given}.",
    "too-many-files": "a job stores at most {most:,} result files; put several files into one archive.",
    "state-conflict": "job {job} is {state}; it cannot be {action}.",
    "secrets-removed": "job {job} is {state}, and its secret parameters were removed when it ended; it cannot be "
    "{action}. Submit it again with all its parameters.",
    "unique-conflict": "the key {key!r} is held by job {job}; wait until that job ends, or cancel it.",
    "unique-conflict.hidden-job": "the key {key!r} is held by a job; wait until that job ends, or cancel it.",
    "unique-in-progress": "another transaction is submitting the key {keys:quoted} now and has not ended; nothing was "
    "stored. Try again in a few seconds.",
    "unique-in-progress.several": "another transaction is submitting one of the keys {keys:quoted} now and has not "
    "ended; nothing was stored. Try again in a few seconds.",
    "held": "another transaction locks {kind:noun} {name} now; nothing was changed. Try again in a few seconds.",
    "not-found": "there is no {kind:noun} {name}.",
    "not-found.of-job": "there is no {kind:noun} {name!r} of job {job}.",
    "not-found.ending": "there is no {kind:noun} that ends in {name} among the newest {among:,}; give the whole id.",
    "not-found.removed-meanwhile": "there is no {kind:noun} {name}: it was removed while it was read.",
    "idempotency-mismatch": "The Idempotency-Key was used before with another request body; use a new key for a new "
    "request.",
    "idempotency-in-progress": "The first request with this Idempotency-Key has not been answered yet; try again in a "
    "second.",
    "files-full": "The space for files (FILES_MAX_TOTAL) is used up; delete old jobs, shorten RETENTION_DAYS or raise "
    "the limit.",
    "files-quota": "Your uploads use {used_mib:.1f} of {limit_mib:.1f} MiB, and this one does not fit: delete some "
    "(DELETE /api/v1/files/…), or ask an operator to raise FILES_MAX_PER_ACCOUNT.",
    "file-in-use": "file {file} is needed: wait until the job or schedule has ended, or cancel it first.",
    "file-in-use.job": "file {file} is needed by job {name}: wait until that has ended, or cancel it first.",
    "file-in-use.schedule": "file {file} is needed by the schedule {name}: wait until that has ended, or cancel it "
    "first.",
    "file-in-use.hidden-job": "file {file} is needed by a job of another account: wait until that has ended, or cancel "
    "it first.",
    "file-in-use.hidden-schedule": "file {file} is needed by a schedule: wait until that has ended, or cancel it "
    "first.",
    "too-many-requests": "There were too many requests. Try again in {retry_after_s:time}.",
    "search-too-slow": "The database took too long to search the jobs. Try again in a few seconds.",
    "search-too-slow.narrower": "The database took too long to search the jobs. Narrow the list by {narrower:list}, or "
    "try again in a few seconds.",
    "database-away": "The database does not answer; nothing was stored. Try again in a few seconds.",
    # --- Errors of an installation ---
    "table-in-use": "A table stayed in use for {seconds:g} s ({reason}). Find the session that locks it in "
    "pg_stat_activity, then run `{command}` again.",
    "rows-in-use": "Rows of {table} stayed in use for {seconds:g} s. Find the session that locks them in "
    "pg_stat_activity, then run `{command}` again.",
    "not-migrated": "{reason}",
    "owner-may-not": "The role of DATABASE_OWNER_URL may not create or change {role}, the role of DATABASE_URL "
    "({reason}). Create it as a superuser, with its password, or set only DATABASE_URL.",
    # --- Mistakes in options ---
    "not-a-duration": "must be a number of seconds from {least:span} to {most:span}, not {given}.",
    "infinite-duration": "must be a number of seconds from {least:span} to {most:span}, not one that is infinite or "
    "too large.",
    "unreadable-duration": "must be a number of seconds from {least:span} to {most:span}.",
    "not-a-count": "must be a whole number from {least:,} to {most:,}, not {given}.",
    "not-text": "must be text, not {given}.",
    "wrong-length": "must be {least} to {most} characters.",
    "too-long": "must be at most {most} characters.",
    "only-spaces": "must be {least} to {most} characters, not only spaces.",
    "invisible-character": "holds an invisible character, U+{number:04X}; remove it.",
    "nul": "holds a NUL character, which cannot be stored; remove it.",
    "half-character": "holds half of a surrogate pair, which is not a character; remove it.",
    "not-one-of": "must be one of {allowed:list}, not {given}.",
    "not-a-moment": "must be a date and time with a time zone, such as 2026-01-31T09:00:00+00:00.",
    "moment-out-of-range": "must lie between 1970 and ten years from now, not {given}.",
    "not-a-pause": "must be seconds from 0 to {most:span}, or a timedelta, not {given}.",
    "two-starts": "cannot be combined with a delay; give one of them.",
    # --- Mistakes in parameters ---
    "required": "is required.",
    "unknown-parameter": "is not a parameter of this job type; remove it or check its spelling.",
    "not-finite": "is not a finite number, or has more than 4,300 digits.",
    "not-json": "cannot be stored as JSON: {reason}.",
    "too-deep": "is nested more than {most} levels deep; flatten it.",
    "given-twice": "occurs twice; remove one.",
    "merged-keys": 'holds two keys that are read as one, such as 1 and "1"; give each key once.',
    "name-not-storable": "has a name that {mistake}",
    "boolean-for-number": "must be a number, not {given}.",
    "stars": "type the secret itself, not the stars that are shown for it.",
    "not-a-file-id": "is not a file's id; upload the file first and use the id from the answer.",
    "unknown-file": "names no file that you may use: upload it first, and give the id from the answer.",
    "not-lasting": "would not survive storage: read back, it is {given}. Take a type whose JSON is read back as the "
    "same value.",
    "secret-not-lasting": "would not survive storage: read back, it is another value. Take a type whose JSON is read "
    "back as the same value.",
    "not-lasting-mistake": "would not survive storage: read back, it {mistake}",
    "not-lasting-refused": "would not survive storage: read back, it is refused ({reason}).",
    "not-lasting-fails": "would not survive storage: reading them back raises {error}: {reason}.",
    "unique-unfilled": "cannot be filled into the unique key {template!r}: {reason}.",
    "unique-not-storable": "makes a unique key that {mistake}",
    "unique-empty": "makes an empty unique key; give it a value.",
    "unique-too-long": "makes a unique key of {length} characters; at most {most}, so shorten it.",
    # --- Mistakes in the declaration of a job type ---
    "not-a-function": "@job needs a plain function, not {given}.",
    "bad-option": "{where}: {option} {mistake}",
    "async-function": "{where}: {function} is `async def`; job functions are plain `def` for now.",
    "bad-name": "{where}: name {given} must be 1 to 120 printable characters without spaces.",
    "bad-queue": "{where}: queue {given} must be letters, digits, '-' and '_', at most 60.",
    "bad-choice": "{where}: {option} {given} must be one of {allowed:list}.",
    "bad-policy": "{where}: {option} {given} must be {allowed:or}.",
    "bad-retries": "{where}: retries must be 0 to {most}, not {given}.",
    "bad-schedule": "{where}: schedule must be cron(…) or every(…), not {given}.",
    "schedule-refused": "{where}: {error}",
    "schedule-without-defaults": "{where}: {name} has a schedule, so every parameter needs a default; missing for "
    "{missing:list}.",
    "unique-unreadable": "{where}: unique {given} cannot be read: {reason}.",
    "unique-unknown": "{where}: unique {given} names {names:list}, which is not a parameter of {name}.",
    "unique-secret": "{where}: unique {given} names {names:list}, which holds a secret; a secret is written as stars, "
    "so all jobs would share one key. Name another parameter.",
    "unknown-package": "JOB_PACKAGES names {name!r}, but there is no such package: check the spelling. Containers have "
    "the folder jobs/ and the packages of jobs/requirements.txt; elsewhere PYTHONPATH counts too.",
    "name-taken": "{where}: the name {name!r} is taken by {other}; give one of them @job(name=…).",
    "annotations-unreadable": "{where}: the annotations of {function} cannot be read: {reason}.",
    "no-context": "{where}: {function} takes no context; its first parameter must be `ctx: Context`.",
    "parameters-uncheckable": "{where}: the parameters of {function} cannot be checked: {reason}.",
    "no-json-schema": "{where}: parameter {parameter!r} of {function} has a type without a JSON Schema ({reason}); "
    "give its class a __get_pydantic_json_schema__, or annotate it with pydantic.WithJsonSchema.",
    "star-parameter": "{where}: {function} takes {parameter}; a job's parameters are named and typed one by one.",
    "no-annotation": "{where}: parameter {parameter!r} of {function} has no annotation; write `{parameter}: str` or "
    "what it is.",
    "underscore-parameter": "{where}: parameter {parameter!r} of {function} begins with an underscore; rename it.",
    "reserved-parameter": "{where}: parameter {parameter!r} of {function} has a name that pydantic reserves; rename "
    "it.",
    "bad-schedule-option": "schedule: {option}: {mistake}",
    "cron-unreadable": "schedule: cron {cron!r} cannot be read: {reason}.",
    "cron-characters": "schedule: cron {cron!r} cannot be read: it may hold letters, digits, * / , # - and spaces.",
    "cron-fields": "schedule: cron {cron!r} cannot be read: it needs five fields.",
    "cron-step": "schedule: cron {cron!r} cannot be read: the step of {term!r} is larger than its range; at most "
    "{most}.",
    "cron-never": "schedule: cron {cron!r} never fires.",
    "unknown-zone": "schedule: there is no time zone {zone!r}; write one like 'America/Sao_Paulo'.",
    "not-an-interval": "schedule: an interval must be a number of seconds from {least:span} to {most:span}.",
    "too-often": "schedule: every {seconds} s is too often; one second is the shortest interval.",
    "cron-and-every": "schedule: cron is {cron!r} and every is {every!r} seconds; leave out one of the two.",
}

#: How many mistakes a sentence names; an error holds all of them.
MOST_SAID = {"pointers": 5, "fields": 10}
#: The round spans of time that have words.
_SPANS = {10 * 366 * 86400.0: "ten years", 86400.0: "one day"}


def span(seconds: float) -> str:
    return _SPANS.get(seconds, f"{seconds:g}")


def noun(kind: str) -> str:
    """Return the word for a kind of thing, such as job or job-type."""
    return kind.replace("-", " ")


def size(count: int) -> str:
    return f"{count // 1024**2} MiB" if count >= 1024**2 else f"{count // 1024} KiB"


def wait(seconds: int) -> str:
    """Return a time to wait, rounded up to minutes."""
    minutes = math.ceil(seconds / 60)
    return f"{seconds} seconds" if seconds < 60 else "1 minute" if minutes == 1 else f"{minutes} minutes"


def some(said: Sequence[str], most: int) -> str:
    more = f" (and {len(said) - most} more)" if len(said) > most else ""
    return "; ".join(said[:most]) + more


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(repr(key) for key in keys[:3]) + (" …" if len(keys) > 3 else "")


def _any(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


#: How a template's {name:word} writes a value.
WRITTEN: Mapping[str, Callable[[Any], str]] = {
    "list": ", ".join,
    "or": _any,
    "quoted": _quoted,
    "noun": noun,
    "span": span,
    "size": size,
    "time": wait,
    "pointers": lambda all_: some([f"{one.place}: {one.detail}" for one in all_], MOST_SAID["pointers"]),
    "fields": lambda all_: some([f"{one.path}: {one.detail}" for one in all_], MOST_SAID["fields"]),
}
