"""One hint on its way through a worker's pool, and what becomes of its jobs if the pool process is lost."""

from __future__ import annotations

import logging
from signal import SIGKILL
from typing import Any
from uuid import UUID

from billiard.exceptions import Terminated
from celery.exceptions import WorkerLostError
from celery.worker.request import Request

from esteira.db import ConnectionLost, briefly
from esteira.record import rescue
from esteira.runner import pool_process
from esteira.worker import stopping

log = logging.getLogger("esteira.worker")

REQUEST = "esteira.worker.request:JobRequest"


class JobRequest(Request):
    """Celery's request, which tells the truth about a pool process that is gone."""

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Remote control's *terminate*: only SIGKILL is certain to end the process, and the job is handed back."""
        super().terminate(pool, SIGKILL)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery calls this for lost processes, and if the core itself fails; a job's own errors never come here."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, pool_process.Leave):  # the hint is over, and so is the process that ran it
            return self.on_success((0, None, 0.0))
        if isinstance(error, WorkerLostError | Terminated) and self.worker_pid:
            pool_process.end_group(int(self.worker_pid))  # what its job has started does not survive it
        answer = super().on_failure(exc_info, send_failed_event, return_ok)
        if isinstance(error, WorkerLostError | SystemExit | Terminated):
            self._process_lost(on_purpose=isinstance(error, Terminated))
        return answer

    def on_timeout(self, soft: bool, timeout: float) -> None:
        super().on_timeout(soft, timeout)
        if not soft:
            self._process_lost()

    def _process_lost(self, *, on_purpose: bool = False) -> None:
        """T7: what this delivery still runs is rescued at once; if the database is slow, its leases end.

        While the worker stops, or if somebody ended the process on purpose, nothing is counted (T10): whoever stops a
        worker may have meant its pool as well, as a signal to the process group does.
        """
        if stopping.ending():
            return  # all is handed back at once
        end = rescue.process_ended if on_purpose or stopping.begun() else rescue.process_lost
        try:
            with briefly("worker lost") as db:
                rescued = end(db, self.id, _ids(self.args))
        except ConnectionLost as error:
            log.warning(
                "a pool process is lost and the database away (%s); the leases of its jobs end", error
            )
            return
        except Exception:  # its message may be a stranger's, and the event loop must go on
            log.exception("a pool process is lost, and its jobs were not rescued; their leases end")
            return
        for job_id, state in rescued.items():
            log.warning("the pool process of job %s is lost; the job is %s", job_id, state)


def _ids(args: Any) -> list[UUID] | None:
    """Return the jobs of a hint; None if somebody else wrote it."""
    try:
        return [UUID(one) for one in args]
    except Exception:  # whatever a stranger wrote
        return None
