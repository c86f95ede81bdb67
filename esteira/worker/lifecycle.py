"""The worker as Celery starts it, made robust: it survives Redis failures, has a name, sends heartbeats, stops in time.

The parent process has no thread until it stops (`esteira.worker.stopping`) and keeps no connection to the database
open, because it forks as long as it runs. It writes over short-lived connections with a limit of one second; if a write
fails, the leases decide. At the start it rescues the jobs that an earlier worker of the same name left behind
(`esteira.worker.identity`). If the process dies here, its pool processes end with it, and the leases of their jobs end.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import signals
from celery.bootsteps import StartStopStep
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from django.conf import settings

from esteira import liveness, migration_lock
from esteira.descriptors import Descriptors, allow_a_few_more, words
from esteira.liveness import ANNOUNCE_S
from esteira.runner import pool_process
from esteira.worker import guardian, pool_runner, stopping
from esteira.worker.acks import spare_hints
from esteira.worker.celery_events import BriefDispatcher
from esteira.worker.links import Links
from esteira.worker.presence import appear, queues
from esteira.worker.ready import Readiness
from esteira.worker.remote_control import limited_by_celery
from esteira.worker.steering import limit_remote_control
from esteira.worker.stopping import Stop
from esteira.worker.strangers import STRAYS_S, Strays, surviving

log = logging.getLogger("esteira.worker")

TOUCH_S = 1.0
#: Celery's own events (which Flower shows) are sent together, this often.
EVENTS_S = 0.1
#: kombu waits 2, 4, … 30 s between attempts to reconnect, which only prolongs the outage.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0


class SteadyConsumer(Consumer):
    """Celery's consumer without gossip and mingle; no error of Redis ends it, and no reconnect is delayed.

    Stock Celery 5.7 can end its process when Redis is killed: cleaning up the broken connection raises errors that its
    caller does not expect (found by killing Redis 20 times under load; there is a test for it).
    """

    # Celery's attributes that its published types leave out.
    hub: Any
    task_consumer: Any
    connection_errors: Any
    _cancel_connection_timer_entries: Any
    controller: Any
    _flush_events: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._strays = Strays()
        self._links, self._descriptors = Links(), Descriptors()
        self._connected_at = float("-inf")
        options = {
            **(kwargs.pop("worker_options", None) or {}),
            "without_gossip": True,
            "without_mingle": True,
        }
        kwargs["worker_options"] = options
        super().__init__(*args, **kwargs)
        self._readiness = Readiness(queues(self.app))
        self.app.events.dispatcher_cls = BriefDispatcher  # type: ignore[assignment]  # a class works as well as its name

    def start(self) -> None:
        while True:
            try:
                return super().start()
            except (WorkerShutdown, WorkerTerminate) as end:
                if not isinstance(end.__cause__, OSError):
                    if isinstance(end, WorkerTerminate):
                        stopping.current().at_once()
                    raise
                self._forget_connection()  # Celery gives up at the first "too many open files", with exit code 0
                time.sleep(LONGEST_PAUSE_S)
            except Exception:
                maybe_shutdown()
                log.exception("the connection to Redis broke in an unexpected way; connecting again")
                self._forget_connection()
                time.sleep(FIRST_PAUSE_S)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        liveness.touch("worker")  # a failed turn also shows that the process is alive
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:
            log.warning("cleanup of the broken connection to Redis failed as well: %r", error)
            self.connection = None
        self._breathe()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        super().on_connection_error_before_connected(exc)
        self._breathe()

    def connect(self) -> Any:
        return self._links.watch_ticks(self.hub, super().connect)

    def _breathe(self) -> None:
        """Pause before the next attempt to connect.

        A full Redis accepts connections and refuses the commands that follow, and each attempt uses its memory.
        """
        self._links.drop(self.hub)
        self._mind_descriptors()
        time.sleep(max(0.0, min(LONGEST_PAUSE_S, self._connected_at + LONGEST_PAUSE_S - time.monotonic())))

    def _mind_descriptors(self) -> None:
        """End with an error if nothing can be opened any more; other workers run the jobs of this one."""
        if self._descriptors.exhausted():
            log.critical("%s", words())
            self._links.drop(self.hub)
            allow_a_few_more()  # handing back needs a connection
            if stopping.watched():
                stopping.current().at_once()
            os._exit(os.EX_OSERR)

    def _forget_connection(self) -> None:
        self.connection = None
        self._links.drop(self.hub)
        self._mind_descriptors()
        try:
            self.on_close()
            self._cancel_connection_timer_entries()
            self.blueprint.restart(self)
        except Exception as error:
            log.warning("restarting the consumer failed: %r", error)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes; meanwhile the process is still reported as alive."""
        pause, told = FIRST_PAUSE_S, False
        self._links.add(conn)
        while True:
            maybe_shutdown()
            self._mind_descriptors()
            liveness.touch("worker")
            try:
                conn.ensure_connection(
                    max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False
                )
                self.first_connection_attempt = False
                self._connected_at = time.monotonic()
                return conn
            except (*conn.recoverable_connection_errors, *conn.recoverable_channel_errors, OSError) as error:
                if not told:
                    log.warning("Redis is unavailable (%s); retrying at most once a second", error)
                    told = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def bucket_for_task(self, type: Any) -> Any:
        return super().bucket_for_task(type) if limited_by_celery(type.name) else None

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        spare_hints(self.task_consumer.channel.qos)  # each connection has its own channel
        return surviving(super().create_task_handler(*args, **kwargs), self.connection_errors)

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        liveness.touch("worker")
        self._announce()  # timers restart with each connection; a Redis that dies every 4 s must not stop them
        hub.timer.call_repeatedly(TOUCH_S, self._show_life)
        hub.timer.call_repeatedly(TOUCH_S, self._mind_descriptors)
        hub.timer.call_repeatedly(ANNOUNCE_S, self._announce)
        hub.timer.call_repeatedly(EVENTS_S, self._flush_events)
        hub.timer.call_repeatedly(STRAYS_S, self._strays.unpublish)

    def on_send_event_buffered(self) -> None:  # type: ignore[override]  # its published type is that of a property
        """Keep Celery's events until the timer sends them; sending each at once would delay the next job."""

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Hand back the jobs of a type that only another release knows, without an error."""
        self._strays.take(message)
        message.ack_log_error(log, self.connection_errors)

    def _show_life(self) -> None:
        """Touch the files of the health check: the event loop runs and Redis is connected.

        Without Redis the loop waits in `ensure_connected`.
        """
        liveness.touch("worker")
        if not stopping.begun():
            self._readiness.look(self)

    def _announce(self) -> None:
        if not stopping.begun():  # a stop stores heartbeats by itself, and then that the worker is gone
            self.controller.presence.announce()


class Name(StartStopStep):
    """Before the pool forks: wait for migrations, take a name, rescue the jobs of an earlier process of that name."""

    name = "esteira-name"

    def include_if(self, parent: Any) -> bool:
        return True

    def create(self, parent: Any) -> None:
        pool_process.remember_parent()
        guardian.start()
        liveness.touch("worker")
        migration_lock.wait_until_migrated(turn=lambda: liveness.touch("worker"))
        presence = parent.presence = appear(parent)
        stopping.watch(Stop(parent, presence))
        signals.worker_process_init.connect(
            lambda **_: pool_runner.start(presence.identity.full), weak=False, dispatch_uid="esteira.runner"
        )

    def start(self, parent: Any) -> None:
        """Replace Celery's signal handlers, which Celery has installed just before."""
        stopping.current().handle_signals()

    def close(self, parent: Any) -> None:
        """Begin a stop that Celery started without a signal: by remote control, or after an error of its own."""
        stopping.current().begin()


@signals.worker_shutdown.connect
def _goodbye(**_: Any) -> None:
    if stopping.watched():
        stopping.current().goodbye()


@signals.worker_init.connect
def _limit_remote_control(**_: Any) -> None:
    limit_remote_control(settings.ESTEIRA_CELERY_CONTROL)
