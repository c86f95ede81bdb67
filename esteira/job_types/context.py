"""The context of a job function: its identity, progress, cancellation, files and the way to complete atomically.

Pure: the worker injects a `Host` that does the real work; `LocalContext` is a host in memory, for tests and for trying
a function in a shell. Every call on the context is a check point: it raises Cancelled after the job was cancelled, and
LeaseLost after another attempt has taken it over.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, TypeVar
from uuid import UUID, uuid4

from esteira.errors import NotFound, TooManyFiles
from esteira.job_types.exceptions import Cancelled
from esteira.values import bounds
from esteira.values.bounds import FILES_OF_A_JOB

T = TypeVar("T")
PROGRESS_SECONDS = 0.25


class Done:
    """The object that `ctx.completing()` yields: set `result` to the job's result."""

    result: Any = None


class Host(Protocol):
    """The interface that a context needs from the code that runs the job."""

    @property
    def cancelled(self) -> bool: ...
    def check(self) -> None: ...
    def progress(self, done: float, total: float | None, text: str) -> None: ...
    def file(self, name: str, content_type: str | None) -> AbstractContextManager[IO[bytes]]: ...
    def open(self, ref: str) -> IO[bytes]: ...
    def completing(self) -> AbstractContextManager[Done]: ...


@dataclass(kw_only=True, eq=False)
class Context:
    """The first argument of every job function.

    `attempt` is the fence: it rises with every claim. `try_number` says which try of the job it is.
    `idempotency_key` is the same for every attempt; give it to outside systems so that they can drop repeats.
    """

    job_id: UUID
    attempt: int
    try_number: int
    log: logging.Logger
    host: Host

    @property
    def idempotency_key(self) -> str:
        return str(self.job_id)

    @property
    def cancelled(self) -> bool:
        """Return whether this job was cancelled; for tight loops that do their own cleanup."""
        return self.host.cancelled

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Report how far the job is; stored and shown at most four times a second.

        Raises TypeError if a value is not a number. NaN, infinite and negative numbers become the nearest allowed
        number.
        """
        self.host.check()
        self.host.progress(*bounds.progress(done, total, text))

    def each(self, iterable: Iterable[T], text: str = "", *, total: int | None = None) -> Iterator[T]:
        """Yield the items, and between them check for cancellation and report progress."""
        size = total if total is not None else len(iterable) if isinstance(iterable, Sized) else None
        told, n = float("-inf"), 0
        for n, item in enumerate(iterable, 1):
            self.host.check()
            if time.monotonic() - told >= PROGRESS_SECONDS:
                self.host.progress(*bounds.progress(n - 1, size, text))
                told = time.monotonic()
            yield item
        self.progress(n, size, text)

    def file(self, name: str, content_type: str | None = None) -> AbstractContextManager[IO[bytes]]:
        """Open a result file for writing; it belongs to the job once the job succeeds."""
        self.host.check()
        return self.host.file(name, content_type)

    def open(self, ref: str) -> IO[bytes]:
        """Open an uploaded file for reading; raises NotFound if retention has removed it."""
        self.host.check()
        return self.host.open(ref)

    def completing(self) -> AbstractContextManager[Done]:
        """Open a transaction that ends with this job's completion: all of it is recorded, or nothing.

        `with ctx.completing() as done: …; done.result = {…}`. It must be the outermost transaction. The function's
        result or exception after the block is logged, but never recorded.
        """
        self.host.check()
        return self.host.completing()


@dataclass(kw_only=True)
class MemoryHost:
    """A host without a database: files in, files out, progress calls, a cancel switch."""

    uploads: dict[str, bytes] = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)
    progress_calls: list[tuple[float, float | None, str]] = field(default_factory=list)
    cancelled: bool = False
    completed: list[Any] = field(default_factory=list)

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled

    def progress(self, done: float, total: float | None, text: str) -> None:
        self.progress_calls.append((done, total, text[: bounds.PROGRESS_TEXT]))

    @contextmanager
    def file(self, name: str, content_type: str | None) -> Iterator[IO[bytes]]:
        if name not in self.written and len(self.written) >= FILES_OF_A_JOB:
            raise TooManyFiles(FILES_OF_A_JOB)
        buffer = io.BytesIO()
        yield buffer
        self.written[name] = buffer.getvalue()

    def open(self, ref: str) -> IO[bytes]:
        if ref not in self.uploads:
            raise NotFound("file", ref)
        return io.BytesIO(self.uploads[ref])

    @contextmanager
    def completing(self) -> Iterator[Done]:
        done = Done()
        yield done
        self.completed.append(done.result)


class LocalContext(Context):
    """A context for tests: `files` maps the ids of uploads to their bytes."""

    host: MemoryHost

    def __init__(
        self, *, files: dict[str, bytes] | None = None, attempt: int = 1, try_number: int = 1
    ) -> None:
        super().__init__(
            job_id=uuid4(),
            attempt=attempt,
            try_number=try_number,
            log=logging.getLogger("esteira.local"),
            host=MemoryHost(uploads=dict(files or {})),
        )

    @property
    def files(self) -> dict[str, bytes]:
        return self.host.written

    @property
    def progress_calls(self) -> list[tuple[float, float | None, str]]:
        return self.host.progress_calls

    def cancel(self) -> None:
        self.host.cancelled = True
