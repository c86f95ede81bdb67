"""One hint in a worker's pool, and the rescue of its jobs if the pool process is lost."""

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
    """Celery's request, changed to handle a lost pool process correctly."""

    @property
    def delivery(self) -> str:
        """Return the id of this hint: a hint of a Celery task has the task's id, and its own in a header."""
        return str(self.request_dict.get("delivery") or self.id)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Handle the remote control command *terminate*: only SIGKILL is certain to end the process.

        The job is handed back.
        """
        super().terminate(pool, SIGKILL)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle lost processes and errors of the core itself; a job's own errors never arrive here."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, pool_process.Leave):  # the hint is finished, and its process has ended
            return self.on_success((0, None, 0.0))
        if isinstance(error, WorkerLostError | Terminated) and self.worker_pid:
            pool_process.end_group(int(self.worker_pid))  # the programs that its job has started must end too
        answer = super().on_failure(exc_info, send_failed_event, return_ok)
        if isinstance(error, WorkerLostError | SystemExit | Terminated):
            self._process_lost(on_purpose=isinstance(error, Terminated))
        return answer

    def on_timeout(self, soft: bool, timeout: float) -> None:
        super().on_timeout(soft, timeout)
        if not soft:
            self._process_lost()

    def _process_lost(self, *, on_purpose: bool = False) -> None:
        """Rescue the jobs of this delivery that still run; if the database is too slow, their leases end.

        While the worker stops, or after the process was terminated on purpose, the attempt does not count: the command
        that stops a worker may reach its pool as well, as a signal to the process group does.
        """
        if stopping.ending():
            return  # all jobs are being handed back already
        end = rescue.process_ended if on_purpose or stopping.begun() else rescue.process_lost
        try:
            with briefly("worker lost") as db:
                ids = _ids(self.args)
                rescued = end(db, self.delivery, ids)
                if ids is None or len(ids) > 1:  # its process may have taken following hints
                    rescued.update(end(db, self.delivery))
        except ConnectionLost as error:
            log.warning(
                "a pool process was lost and the database is unavailable (%s); the leases of its jobs will end",
                error,
            )
            return
        except Exception:  # the message may be malformed, and the event loop must go on
            log.exception("a pool process was lost, and its jobs were not rescued; their leases will end")
            return
        for job_id, state in rescued.items():
            log.warning("the pool process of job %s was lost; the job is now %s", job_id, state)


def _ids(args: Any) -> list[UUID] | None:
    """Return the job ids of a hint; None if the message is not a hint."""
    try:
        return [UUID(one) for one in args]
    except Exception:  # the message may have any content
        return None
