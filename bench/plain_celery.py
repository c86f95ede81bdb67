"""The yardstick: plain Celery with its defaults, no results, no events, acknowledging early; it records nothing."""

from __future__ import annotations

import os

from celery import Celery

from bench import work

QUEUE = "plain"

app = Celery("plain", broker=os.environ.get("REDIS_URL"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=False,
    worker_send_task_events=False,
    task_send_sent_event=False,
    task_default_queue=QUEUE,
    broker_connection_retry_on_startup=True,
)


@app.task(name="plain.noop")
def noop() -> None:
    pass


@app.task(name="plain.one_ms")
def one_ms() -> None:
    work.one_ms()


@app.task(name="plain.probe")
def probe(number: int) -> None:
    work.probe(number)
