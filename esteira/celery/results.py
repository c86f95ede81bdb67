"""Celery's result backend in PostgreSQL: results, groups and the ends of tasks.

Inside a worker's attempt, `mark_as_done`, `mark_as_failure` and `mark_as_retry` of its own task are the end of the
attempt: `esteira.celery.ending` writes the result in the same transaction as the state of the row. Everywhere else they
store a result as any backend does. A task that ended without one, because it was killed, cancelled or expired, has the
state that its row shows.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import result_from_tuple
from kombu.exceptions import EncodeError
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from esteira.celery import current, ending, errbacks
from esteira.celery.chords import Chords
from esteira.celery.database import database, in_transaction
from esteira.celery.derived import end_of
from esteira.celery.send import unsent
from esteira.celery.wake import Waiter, wake
from esteira.record import results
from esteira.record.task_rows import rows_of
from esteira.values.bounds import MESSAGE_BYTES

log = logging.getLogger("esteira.celery")

#: A waiter that no message wakes looks again after this time, or after its own interval if that is shorter.
LOOK_AGAIN_S = 0.5


#: Its published types leave out what is used here.
_KeyValue: Any = KeyValueStoreBackend


class Backend(Chords, _KeyValue):  # type: ignore[misc]
    """The backend of an adopted app."""

    persistent = True
    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_s = float(self.expires) if self.expires else None
        if self.app.conf.result_backend:
            raise ImproperlyConfigured(
                "result_backend: results of an adopted app are stored in PostgreSQL; remove this setting."
            )

    # --- the end of an attempt, or a plain result

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        unit = current.unit()
        if unit is None or not unit.owns(task_id):
            super().mark_as_done(task_id, result, request, store_result, state)
            return
        stores = store_result and not (request and request.ignore_result)
        try:
            payload = self.payload(task_id, result, state, request=request) if stores else None
        except EncodeError:
            unit.collected.clear()  # Celery records a failure now, and these are for a success
            raise
        follows = bool(request and request.chord)

        def follow() -> None:
            if follows:
                self.on_chord_part_return(request, state, result)

        ending.succeed(unit, payload, follow if follows else None, self.keep_s)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        unit = current.unit()
        if unit is None or not unit.owns(task_id):
            super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
            return
        unit.collected.clear()
        payload = self._payload_of_failure(task_id, exc, state, traceback, request) if store_result else None

        def follow() -> None:
            """Do what Celery does beside storing the result: chord, rest of the chain, errbacks."""
            if not request:
                return
            if request.chord:
                self.on_chord_part_return(request, state, exc)
            self._fail_chain(request.chain, exc, traceback, store_result=store_result, state=state)
            if call_errbacks and request.errbacks:
                self._call_task_errbacks(request, exc, traceback)

        ending.fail(unit, payload, exc, follow, self.keep_s)

    def mark_as_retry(
        self,
        task_id: str,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        unit = current.unit()
        if unit is None or not unit.owns(task_id) or unit.following is None:
            return super().mark_as_retry(task_id, exc, traceback, request, store_result, state)
        payload = self._payload_of_failure(task_id, exc, state, traceback, request)
        ending.go_again(unit, payload, exc, self.keep_s)
        return None

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        """Send errbacks that are tasks with the end that they follow; call the others after its commit."""
        unit = current.unit()
        if unit is None or not unit.in_end:
            super()._call_task_errbacks(request, exc, traceback)
            return
        called, sent = errbacks.divided(self, request.errbacks)
        if sent:
            with unit.collects():
                errbacks.send(self.app, sent, request)
        if called:
            unit.later.append(lambda: errbacks.call(called, request, exc, traceback))

    # --- results

    def payload(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None
    ) -> bytes:
        """Encode what is stored for a task; raises EncodeError, also if it is too large."""
        return self._encoded(task_id, self.encode_result(result, state), state, traceback, request)

    def _payload_of_failure(self, task_id: str, exc: Any, state: str, traceback: Any, request: Any) -> bytes:
        try:
            return self.payload(task_id, exc, state, traceback, request)
        except EncodeError:  # the arguments cannot be encoded either, and the failure must be stored
            return self.payload(task_id, exc, state, traceback, None)

    def _encoded(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> bytes:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)
        payload = bytes(ensure_bytes(self.encode(meta)))
        if len(payload) > MESSAGE_BYTES:
            raise EncodeError(
                f"The result is larger than {MESSAGE_BYTES // 1024**2} MiB; store it elsewhere and return a reference."
            )
        return payload

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        payload = self._encoded(task_id, result, state, traceback, request)
        with database() as db:
            results.store_result(db, str(task_id), state, payload, self.keep_s)
        if state in states.READY_STATES:
            unit = current.unit()
            if unit is not None and unit.in_end:
                unit.later.append(lambda: wake([str(task_id)]))
            else:
                wake([str(task_id)])
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        payload = self._payloads([str(task_id)]).get(str(task_id))
        if payload is None:
            return {"status": states.PENDING, "result": None}
        meta: dict[str, Any] = self.decode_result(payload)
        return meta

    def task_result_exists(self, task_id: str) -> bool:
        return bool(self._payloads([str(task_id)]))

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        ids = [self._strip_prefix(key) for key in keys]
        found = self._payloads(ids)
        return [found.get(one) for one in ids]

    def _payloads(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the stored results, and those that the rows of tasks without one show."""
        with database() as db:
            found = results.results(db, task_ids)
            open_ids = [one for one in task_ids if one not in found or not self._is_ready(found[one])]
            rows = rows_of(db, open_ids) if open_ids else {}
        for task_id, row in rows.items():
            if end := end_of(row):
                state, error = end
                found[task_id] = self.payload(task_id, error, state)
        return found

    def _is_ready(self, payload: bytes) -> bool:
        return bool(self.decode(payload)["status"] in states.READY_STATES)

    def _forget(self, task_id: str) -> None:
        with database() as db:
            results.forget_result(db, str(task_id))

    # --- waiting

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = LOOK_AGAIN_S,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """Return the result of a task when it has one, as Celery does; a message wakes this before its interval."""
        self._ensure_not_eager()
        _refuse_unsent([task_id])
        pause = min(interval or LOOK_AGAIN_S, LOOK_AGAIN_S)
        ends = math.inf if timeout is None else time.monotonic() + timeout
        with Waiter(task_id) as waiter:
            while True:
                meta: dict[str, Any] = self.get_task_meta(task_id)
                ready = meta["status"] in states.READY_STATES
                if on_interval and meta["status"] != states.SUCCESS:
                    on_interval()  # raises the error of a parent, which a failed chord hides
                if ready:
                    return meta
                left = ends - time.monotonic()
                if left <= 0:
                    raise CeleryTimeout("The operation timed out.")
                waiter.wait(min(pause, left))

    def get_many(self, task_ids: Any, *args: Any, **kwargs: Any) -> Any:
        ids = task_ids if isinstance(task_ids, set) else set(task_ids)
        _refuse_unsent(ids)
        if kwargs.get("interval", LOOK_AGAIN_S) in (None, LOOK_AGAIN_S):
            kwargs["interval"] = LOOK_AGAIN_S / 5
        return super().get_many(ids, *args, **kwargs)

    # --- groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        payload = bytes(ensure_bytes(self.encode({"result": result.as_tuple()})))
        with database() as db:
            results.save_group(db, str(group_id), payload, self.keep_s)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        with database() as db:
            payload = results.group(db, str(group_id))
        if payload is None:
            return None
        meta: dict[str, Any] = self.decode(payload)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        with database() as db:
            results.delete_group(db, str(group_id))


def _refuse_unsent(task_ids: Any) -> None:
    """Refuse to wait for a task of the transaction that is still open: it would never be sent."""
    if in_transaction() and any(str(one) in unsent for one in task_ids):
        raise RuntimeError(
            "get: this task is sent by the transaction that is still open, so it cannot run before the commit. "
            "Leave transaction.atomic() first (ATOMIC_REQUESTS opens one in every view), or return the task's id."
        )
