"""A send becomes a row: every way to send a task ends at a producer, and this one stores what it is given.

Celery's own code routes a message, calls the signals and serializes the body. The row belongs to the caller's
transaction, and its hint follows after the commit; no connection to the broker is opened, so tasks are accepted while
Redis is down. What one block of `producer_or_acquire` sends, such as a group, is stored together or not at all. If the
process dies before the commit, nothing was sent; after it, the keeper finds the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from celery.app import amqp
from django.db import transaction
from kombu import Producer

from esteira.broker import publisher
from esteira.broker.batching import Typical, hints
from esteira.celery import current, refusals
from esteira.celery.database import callers, in_event_loop, in_transaction
from esteira.celery.rows import Delays, retries_of, rows
from esteira.db import Db
from esteira.record.tasks import NewTask, insert

log = logging.getLogger("esteira.celery")

typical = Typical()
#: The ids that this process has sent inside a transaction that may still be open.
unsent: set[str] = set()


#: The first arguments of `as_task_v2` behind the name; Celery gives them by position.
_AFTER_NAME = ("args", "kwargs", "countdown", "eta", "group_id", "group_index", "expires")


class TaskHeaders(dict[str, Any]):
    """The headers of a message, with the delays that its sender gave in seconds: the database's clock adds them."""

    delays = Delays()


class AMQP(amqp.AMQP):
    """Celery's sender; it stores instead of publishing."""

    app: Any  # an attribute that the published types leave out

    def as_task_v2(self, task_id: str, name: str, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(_AFTER_NAME, args, strict=False)), **kwargs}
        delays = Delays.of(given.get("countdown"), given.get("expires"))
        message: Any = super().as_task_v2(task_id, name, *args, **kwargs)
        headers = TaskHeaders(message.headers)
        headers.delays = delays
        return message._replace(headers=headers)

    def _create_task_sender(self) -> Callable[..., Any]:
        send: Any = super()._create_task_sender()  # type: ignore[misc]

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            with batch_for(self.app, producer) as batch:
                return send(batch, name, message, **options)

        return send_task_message

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Send what follows from the end of a task: it is stored with that end."""
        unit = current.unit()
        with unit.collects() if unit is not None else nullcontext():
            return publish(*args, **kwargs)


class NoConnection:
    """What Celery asks of a producer's connection."""

    recoverable_connection_errors: tuple[type[BaseException], ...] = ()

    @contextmanager
    def _reraise_as_library_errors(self, **_: Any) -> Iterator[None]:
        yield


class Batch(Producer):
    """A producer without a connection: it collects messages, and stores them at the end of its block."""

    def __init__(self, app: Any) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._app = app
        self._tasks: list[NewTask] = []
        self._plain: list[Callable[[Any], Any]] = []

    @property
    def connection(self) -> Any:
        return NoConnection()

    def revive(self, channel: Any) -> None:
        """Do nothing: there is no channel."""

    def publish(self, body: Any, *args: Any, headers: Any = None, **how: Any) -> None:
        """Take a message of a task; one of Celery's own events, and a broadcast, go to the broker afterwards."""
        headers = {} if headers is None else headers
        if "task" in headers:
            found = rows(self._app, self, body, headers, dict(how))
            if found is not None:
                self._tasks += found
                return
        elif isinstance(body, dict) and "task" in body:
            raise refusals.old_protocol()
        how["retry"] = False
        self._plain.append(lambda producer: producer.publish(body, *args, headers=headers, **how))

    def store(self) -> None:
        """Store the messages, and send their hints after the commit of the caller's transaction."""
        tasks, plain = self._tasks, self._plain
        self._tasks, self._plain = [], []
        unit = current.unit()
        if unit is not None:
            tasks = unit.takes(tasks, retries_of)
        if tasks:
            self._store(tasks, plain)
        elif plain:
            self._publish_plain(plain)

    def _store(self, tasks: list[NewTask], plain: list[Callable[[Any], Any]]) -> None:
        publish_if_open(tasks)
        with callers() as db, _one_transaction(db, tasks):
            now = insert(db, tasks)
        if in_event_loop():
            self._after_commit(now, plain)
            return
        if in_transaction():
            unsent.update(task.task_id for task in tasks)
        else:
            unsent.clear()
        transaction.on_commit(lambda: self._after_commit(now, plain), robust=True)

    def _after_commit(self, now: list[NewTask], plain: list[Callable[[Any], Any]]) -> None:
        send_hints(now)
        self._publish_plain(plain)

    def _publish_plain(self, plain: list[Callable[[Any], Any]]) -> None:
        """Send messages that only the broker carries, unless Redis did not answer just now."""
        if not plain or not publisher.fast.available():
            return
        try:
            with self._app.amqp.producer_pool.acquire(block=True, timeout=1) as producer:
                for send in plain:
                    send(producer)
        except Exception as error:  # an event of Celery must not fail a send that is stored
            log.warning("Celery's events about sent tasks are lost: %s", error)


def publish_if_open(tasks: list[NewTask]) -> None:
    """Mark the messages whose lists take hints now; the others wait for the keeper, behind those that wait already."""
    fast = {queue: publisher.fast.open_to_new(queue) for queue in {task.queue for task in tasks}}
    for task in tasks:
        task.publish = task.priority in fast[task.queue]


def send_hints(now: list[NewTask]) -> None:
    """Send the hints of stored messages, after the commit."""
    if now:
        publisher.fast.send(hints(((task, [task.id]) for task in now if task.id), typical))


def _one_transaction(db: Db, tasks: list[NewTask]) -> AbstractContextManager[object]:
    """Open a transaction where several statements are possible, or a caller's transaction must survive an error."""
    return db.transaction() if len(tasks) > 1 or in_transaction() else nullcontext()


@contextmanager
def batch_for(app: Any, producer: Any = None) -> Iterator[Batch]:
    """Go on with an open batch, or begin one; a kombu producer of the caller is accepted and not used."""
    if isinstance(producer, Batch):
        yield producer
        return
    batch = Batch(app)
    yield batch
    batch.store()
