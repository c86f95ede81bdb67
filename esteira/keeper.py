"""The keeper: what keeps the promise while everything else dies. It runs inside `celery beat`, in any number.

A turn every half second: may I sweep? → rescue → ticks → compare Redis with the rows → feed → retention. Every step is
a compare-and-set or a locked row, so keepers need no leader, and one that is killed anywhere leaves nothing half-done.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import Any

from celery.beat import Scheduler
from django.conf import settings

from esteira import gate
from esteira.db import Core, Gone
from esteira.descriptors import Descriptors, words
from esteira.feed import Feeder
from esteira.identity import touch
from esteira.missing import Checker
from esteira.publish import Publisher
from esteira.retention import Retention
from esteira.sweep import sweep
from esteira.ticks import write_ticks

log = logging.getLogger("esteira.keeper")

#: Limits of every wait for the database and for Redis.
DATABASE_TIMEOUT_S, REDIS_TIMEOUT_S, REDIS_PAUSE_S = 3.0, 1.0, 0.5
#: While jobs are fed without a pause, the other steps still take their turns, no oftener than this.
SWEEP_S, CHECK_S = 0.25, 1.0
#: How soon to look again at a list that was full.
FULL_S = 0.05
#: After Redis was full, this share of the window for so long.
RELIEVED_SHARE, RELIEVED_S = 20, 30.0


class Keeper:
    """One keeper's turns; holds nothing that another could miss."""

    def __init__(self) -> None:
        self._db = Core("keeper", timeout_s=DATABASE_TIMEOUT_S)
        self._publisher = Publisher(timeout_s=REDIS_TIMEOUT_S, breaker_s=REDIS_PAUSE_S)
        self._checker, self._feeder = Checker(self._publisher), Feeder(self._publisher)
        self._retention = Retention()
        self._swept = self._checked = float("-inf")
        self._relieved = float("-inf")
        self._was_away = False

    def turn(self) -> float:
        """Do what is due; return the seconds to wait before the next turn."""
        try:
            return self._turn()
        except Gone as error:
            if not self._was_away:
                log.warning("the database is away: %s", str(error).strip())
            self._was_away = True
            self._db.close()
        except Exception:
            log.exception("a turn of the keeper failed; the next one starts afresh")
            self._db.close()
        return float(settings.KEEPER_SECONDS)

    def _turn(self) -> float:
        now, more = time.monotonic(), False
        if now - self._swept >= SWEEP_S:
            sweep(self._db, was_away=self._was_away)
            if self._was_away:
                log.info("the database answers again")
            self._was_away, self._swept = False, now
            touch("beat", "ready")
            more = write_ticks(self._db)
        if now - self._checked >= CHECK_S:
            more = self._checker.check(self._db) or more
            self._checked = now if not more else float("-inf")
        self._make_room(now)
        fed, full = self._feeder.feed(self._db)
        more = self._retention.step(self._db) or more
        if fed or more:
            return 0.0
        return FULL_S if full else float(settings.KEEPER_SECONDS)

    def _make_room(self, now: float) -> None:
        if self._publisher.take_full():
            self._checker.relieve()
            self._relieved, self._checked = now, float("-inf")
        eased = now - self._relieved < RELIEVED_S
        self._feeder.window = max(1, settings.WINDOW // RELIEVED_SHARE) if eased else settings.WINDOW


class KeeperScheduler(Scheduler):
    """What `celery beat` calls; its own schedule stays empty, ours is in the database."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._keeper: Keeper | None = None
        self._descriptors = Descriptors()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        touch("beat")
        gate.wait_until_migrated(turn=lambda: touch("beat"))
        self._keeper = Keeper()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        touch("beat")
        if self._descriptors.exhausted():
            raise OSError(errno.EMFILE, words())  # Celery logs it and ends with an error
        assert self._keeper is not None
        return min(self._keeper.turn(), 0.5)

    def should_sync(self) -> bool:
        return False

    def sync(self) -> None:
        """Touch nothing: Celery calls this inside a signal handler."""

    def close(self) -> None:
        """Touch nothing, for the same reason."""
