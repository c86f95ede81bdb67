"""Register one Celery task per job type, under the type's own name, so that Flower shows jobs by their types.

Celery imports this module in workers when Django is ready. The queues come from the declared job types and JOB_QUEUES,
and have no exchange of their own, so after Redis was wiped nothing has to be declared again. The queues of the app's
own tasks stay beside them.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import current_app, shared_task
from kombu import Queue

from esteira.broker import next_hint
from esteira.broker.batching import known_queues
from esteira.broker.own_queues import own_queues
from esteira.celery import door as task_door
from esteira.celery.adopt import is_adopted
from esteira.job_types.registry import registry
from esteira.worker import lifecycle, pool_runner, remote_control, request

log = logging.getLogger("esteira.worker")

ID_LENGTH = 36


def door(task: Any, *ids: str, **others: Any) -> None:
    if not ids or others or any(len(str(one)) != ID_LENGTH for one in ids):
        log.warning(
            "a message of type %s was not a hint; it is dropped: submit jobs instead of calling tasks",
            task.name,
        )
        return
    queue = (task.request.delivery_info or {}).get("routing_key", "")
    pool_runner.run_hint(ids, task.request.id, next_hint.of(task.name, queue))


_register: Any = shared_task  # its published types do not include `Request`
for _kind in registry.all():
    _register(door, name=_kind.name, bind=True, ignore_result=True, acks_late=False, Request=request.REQUEST)

_queues = {queue.name: queue for queue in own_queues(current_app)}
_queues |= {name: Queue(name, routing_key=name) for name in known_queues()}
current_app.conf.task_queues = list(_queues.values())
_app: Any = current_app
if is_adopted(_app):
    task_door.install(_app._get_current_object())
current_app.steps["worker"].add(lifecycle.Name)
remote_control.guard()
