"""Messages of tasks for tests of `esteira.record`: made, stored and claimed like jobs of `tests.support.jobs`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from esteira.db import Db
from esteira.record.claim import Claimed, claim
from esteira.record.tasks import NewTask, insert

TASK = "shop.pack"


def new_task(**fields: Any) -> NewTask:
    """A task without options, due at once; two calls make two ids."""
    plain = NewTask(
        task_id=str(uuid4()),
        type=TASK,
        said={"*args": "(1,)", "**kwargs": "{}"},
        message=b'{"body": ""}',
        queue="default",
        priority=6,
        lease_s=10.0,
        timeout_s=600.0,
    )
    return replace(plain, **fields)


def sent(db: Db, **fields: Any) -> UUID:
    """Store such a task, and return the id of its row."""
    task = new_task(**fields)
    insert(db, [task])
    assert task.id is not None
    return task.id


def started(db: Db, **fields: Any) -> Claimed:
    """Store and claim such a task."""
    return claim(db, [sent(db, **fields)], worker="w1/boot", delivery="d1")[0]
