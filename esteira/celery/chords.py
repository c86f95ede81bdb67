"""Chords counted in PostgreSQL: the transaction that stores the last part of a header sends the body.

The row of the chord is locked while a part is counted, so parts that end at the same time are counted one after the
other. A part that ends a second time changes nothing. No task polls for the others.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result
from celery.utils.functional import regen
from kombu.utils.encoding import ensure_bytes

from esteira.celery import current
from esteira.celery.database import database
from esteira.db import ConnectionLost
from esteira.record import results

log = logging.getLogger("esteira.celery")


#: The results of a header that is given as a generator: they must not be counted before they are consumed.
_REGEN = type(regen(iter(())))


class Chords:
    """The part of the result backend that Celery's chords use."""

    app: Any
    keep_s: float | None

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Keep the structure of a header with groups in it; the results of a flat one are kept with its parts."""
        if not isinstance(header_result_args[1], _REGEN):
            header = self.app.GroupResult(*header_result_args)
            if any(isinstance(one, GroupResult) for one in header.results):
                header.save(backend=self)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        with database() as db:
            results.resize_chord(db, group_id, size=chord_size, keep_s=self.keep_s)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        with database() as db:
            results.resize_chord(db, group_id, added=1, keep_s=self.keep_s)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        chord_id, task_id = request.group, request.id
        if not chord_id or not task_id:
            return
        backend: Any = self
        part = ensure_bytes(backend.encode([task_id, state, backend.encode_result(result, state)]))
        unit = current.unit()
        in_end = unit is not None and unit.in_end
        with database() as db, nullcontext() if in_end else db.transaction():
            if results.add_part(db, chord_id, task_id, request.group_index, part, keep_s=self.keep_s):
                self._send_body(chord_id, request.chord, results.end_chord(db, chord_id))

    def _send_body(self, chord_id: str, chord: Any, parts: list[bytes]) -> None:
        body: Any = maybe_signature(chord, app=self.app)
        try:
            values = self._values(chord_id, parts)
            self.app.amqp._retry_publish(body.delay, values)
        except ConnectionLost:
            raise
        except Exception as error:  # a part has failed, or its value cannot be handed on: the body fails
            log.info("the body of chord %s cannot be sent: %r", chord_id, error)
            if not isinstance(error, ChordError):
                error = _chord_error(f"Callback error: {error!r}", error)
            backend: Any = self
            backend.chord_error_from_stack(body, error)

    def _values(self, chord_id: str, parts: list[bytes]) -> list[Any]:
        """Return the results of a header; raises ChordError if a part has failed."""
        backend: Any = self
        values = [self._value(part) for part in parts]
        header: Any = GroupResult.restore(chord_id, backend=backend, app=self.app)
        if header is None:
            return values
        header.on_ready()
        with allow_join_result():
            nested: list[Any] = header.join_native(
                timeout=self.app.conf.result_chord_join_timeout, propagate=True
            )
        return nested

    def _value(self, part: bytes) -> Any:
        backend: Any = self
        task_id, state, value = backend.decode(part)
        if state in backend.EXCEPTION_STATES:
            value = backend.exception_to_python(value)
            raise _chord_error(f"Dependency {task_id} raised {value!r}", value)
        return value


def _chord_error(said: str, cause: BaseException) -> ChordError:
    error = ChordError(said)
    error.__cause__ = cause
    return error
