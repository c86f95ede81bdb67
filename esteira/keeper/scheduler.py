"""The keeper: the process that keeps the promise when others fail. It runs inside `celery beat`, in any number.

A turn runs every half second: rescue → expire → declarations → schedules → reconcile → publish → retention. Some steps
run less often. Every step is a compare-and-set or works on a locked row, so keepers need no leader, and a keeper that
is killed at any point leaves nothing half-done. Steps are independent: a failed step is reported
(`esteira.keeper.turns`), and the others go on. Only an unavailable database ends a turn early, because no step can work
without it. Beat is ready when every step of a turn succeeded, and alive as long as steps begin and statements end.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from celery.beat import Scheduler
from django.conf import settings
from psycopg.errors import QueryCanceled

from esteira import migration_lock
from esteira.broker.publisher import Publisher
from esteira.db import BUSY, Db, Params, PrivateConnection, Row
from esteira.db.walk import Clock, Recent
from esteira.descriptors import Descriptors, words
from esteira.keeper import full_redis
from esteira.keeper.added_steps import ADDED
from esteira.keeper.declared import keep_declared
from esteira.keeper.hold import Calm, Hold
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import Reconciler
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.retention import Retention
from esteira.keeper.schedules import write_ticks
from esteira.keeper.turns import Turns, is_absence, said
from esteira.liveness import touch
from esteira.record import rescue

log = logging.getLogger("esteira.keeper")
T = TypeVar("T")

#: Limits of every wait for the database and for Redis.
DATABASE_TIMEOUT_S, REDIS_TIMEOUT_S, REDIS_PAUSE_S = 3.0, 1.0, 0.5
#: While jobs are published without a pause, the other steps still run, at most this often.
SWEEP_S, DECLARE_S, CHECK_S = 0.25, 2.0, 1.0
#: Between statements, the heartbeat file is touched at most this often.
TOUCH_S = 1.0
#: How soon to check again a list that was full.
FULL_S = 0.05
#: After Redis was full, the window is divided by this number for this many seconds.
RELIEVED_SHARE, RELIEVED_S = 20, 30.0


class Timed(PrivateConnection):
    """A connection that adds up how long it waited for its statements.

    A server that stood still answers all of them, but late; and a lock on all jobs ends one statement after the other.
    """

    waited_s = 0.0
    _touched = float("-inf")

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        began = time.monotonic()
        if began - self._touched >= TOUCH_S:  # one step may run many statements, and each may take seconds
            self._touched = began
            touch("beat")
        try:
            return super().fetch(sql, params)
        finally:
            self.waited_s += time.monotonic() - began


class Keeper:
    """One keeper's turns; it holds no state that another keeper needs."""

    def __init__(self) -> None:
        limit_s = min(DATABASE_TIMEOUT_S, max(1.0, settings.ESTEIRA_LEASE_SECONDS / 3))
        self._db = Timed("keeper", timeout_s=limit_s)
        # One slow statement must end by its own limit before the server counts as having stood still.
        self._still_s = max(settings.ESTEIRA_LEASE_SECONDS / 2, 1.25 * limit_s)
        self._publisher = Publisher(timeout_s=REDIS_TIMEOUT_S, breaker_s=REDIS_PAUSE_S)
        self._moment = moment = Recent()
        self._reconciler = Reconciler(self._publisher, Clock(moment))
        self._due_publisher = DuePublisher(self._publisher, Clock(moment))
        self._rescuer, self._expirer, self._retention = (
            Rescuer(Clock(moment)),
            Expirer(Clock(moment)),
            Retention(),
        )
        self._hold, self._turns = Hold(), Turns()
        self._swept = self._declared = self._checked = float("-inf")
        self._relieved = float("-inf")
        self._was_away = False

    def turn(self) -> float:
        """Run the steps that are due; return the seconds to wait before the next turn."""
        try:
            return self._turn()
        except Exception as error:  # for any error, the loop must survive
            self._turns.cut_off()
            if not is_absence(error):
                log.exception("a turn of the keeper failed; the next one starts from the beginning")
            elif not self._was_away:
                log.warning("the database is unavailable: %s", said(error))
            self._was_away = self._was_away or is_absence(error)
            self._db.close()
        return float(settings.ESTEIRA_KEEPER_SECONDS)

    def _turn(self) -> float:
        now, more = time.monotonic(), False
        self._moment.forget()
        sweeps = now - self._swept >= SWEEP_S
        if sweeps:
            self._swept = now
            self._step("rescue", self._rescue, 0)
            self._step("expire", self._expirer.step, 0)
            if now - self._declared >= DECLARE_S:
                self._declared = now
                self._step("declarations", keep_declared, False)
            more = self._step("schedules", write_ticks, False)
        if now - self._checked >= CHECK_S:
            missing = self._step("reconcile", self._reconciler.reconcile, False)
            self._checked = float("-inf") if missing else now
            more = missing or more
        self._step("publish", lambda db: self._publish(db, now), None)
        published, full = self._due_publisher.went
        for name, step in ADDED.items():
            more = self._step(name, step, False) or more
        more = self._step("retention", self._retention.step, False) or more
        if self._turns.end() and sweeps:
            touch("beat", "ready")
        if published or more:
            return 0.0
        return FULL_S if full else float(settings.ESTEIRA_KEEPER_SECONDS)

    def _step(self, name: str, do: Callable[[Db], T], otherwise: T) -> T:
        """Run one step; if it fails, log that and go on, unless the database is unavailable."""
        touch("beat")
        try:
            result = do(self._db)
        except Exception as error:  # a bug, a lock or a bad row of one step must not stop the others
            if is_absence(error):
                raise
            self._turns.failed(name, error, self._hold.now)
            return otherwise
        self._turns.went_through(name)
        return result

    def _rescue(self, db: Db) -> int:
        calm = self._look(db)
        if self._was_away:
            log.info("the database is available again")
            self._rescuer.start_over()  # it may be another server, with other rows
            self._expirer.start_over()
            self._reconciler.start_over()
            self._due_publisher.start_over()
        self._was_away = False
        return self._rescuer.step(db, calm)

    def _look(self, db: Db) -> Calm:
        """Return which leases can be judged: whether running processes could extend theirs since the last check.

        A lock on all jobs is no outage: the hold that follows one begins when the lock is released, not while it lasts.
        """
        try:
            rescue.could_extend(db)
        except (QueryCanceled, *BUSY):
            self._hold.look(db, self._turns, was_away=False)  # stores the result of the last turn
            raise
        self._note_standstill()
        calm = self._hold.look(db, self._turns, was_away=self._was_away)
        if self._note_standstill():  # during the check itself
            calm = self._hold.look(db, self._turns, was_away=True)
        return calm

    def _note_standstill(self) -> bool:
        waited_s, self._db.waited_s = self._db.waited_s, 0.0
        if waited_s <= self._still_s:
            return False
        log.warning(
            "leases may have ended although their processes run: the keeper waited %.1f s for the database",
            waited_s,
        )
        self._was_away = True
        return True

    def _publish(self, db: Db, now: float) -> None:
        self._due_publisher.went = 0, False
        self._make_room(now)
        self._due_publisher.publish(db)

    def _make_room(self, now: float) -> None:
        if self._publisher.take_full():
            full_redis.make_room(self._publisher)
            self._relieved, self._checked = now, float("-inf")
        eased = now - self._relieved < RELIEVED_S
        self._due_publisher.window = (
            max(1, settings.ESTEIRA_WINDOW // RELIEVED_SHARE) if eased else settings.ESTEIRA_WINDOW
        )


class KeeperScheduler(Scheduler):
    """The scheduler that `celery beat` calls; its own schedule stays empty, Esteira's schedules are in the database."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._keeper: Keeper | None = None
        self._told_to_stop = False
        self._descriptors = Descriptors()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        touch("beat")
        migration_lock.wait_until_migrated(turn=lambda: touch("beat"))
        if entries := self.app.conf.beat_schedule:
            log.warning(
                "this keeper runs the schedules of jobs, and not the %s entries of beat_schedule; a beat of the "
                "project's own runs those: `celery beat` without -S",
                len(entries),
            )
        self._keeper = Keeper()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        touch("beat")
        if self._told_to_stop:  # the signal handler's SystemExit was caught in a type's own code
            raise SystemExit
        if self._descriptors.exhausted():
            raise OSError(errno.EMFILE, words())  # Celery logs it and ends with an error
        assert self._keeper is not None
        return min(self._keeper.turn(), 0.5)

    def should_sync(self) -> bool:
        return False

    def sync(self) -> None:
        """Do nothing, because Celery calls this inside a signal handler."""

    def close(self) -> None:
        """Record that beat was ordered to stop, and do nothing else, for the same reason."""
        self._told_to_stop = True
