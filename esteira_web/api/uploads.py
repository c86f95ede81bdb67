"""Uploads: one file as multipart/form-data (field `file`), or the bytes themselves with `?name=`.

The bytes are stored in the table of chunks piece by piece, as they arrive. Under `esteira_web.server.asgi` this happens
before the view is called a second time, and no thread waits for a slow sender; under another server, the view reads
the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import close_old_connections
from django.http import HttpRequest
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from esteira.db import ConnectionLost
from esteira.errors import IdempotencyInProgress, Mistake, TooLarge
from esteira.files import CHUNK_BYTES, MAX_BYTES
from esteira.files.uploads import Upload
from esteira.idempotency import is_kept
from esteira.models import File
from esteira_web.accounts.roles import Access
from esteira_web.api.repeats import key_of
from esteira_web.server.bodies import SINK, NeedsBody, NotYet
from esteira_web.server.problems import Problem, Told, invalid

#: The limits of the bytes that multipart adds around a file, and of the other fields, which are read and ignored.
MULTIPART_BYTES, MULTIPART_PARTS = 64 * 1024, 20
#: The content type that curl sends if none is given.
SAYS_NOTHING = "application/x-www-form-urlencoded"


class Arriving:
    """An upload in progress: the bytes themselves, or a part of a multipart body."""

    def __init__(self, request: HttpRequest, access: Access, name: str) -> None:
        """Check the head of the request; raises Told, TooLarge, QuotaFull or BadKey."""
        self.account, self.name = access.account, name
        multipart = request.content_type == "multipart/form-data"
        if not multipart and not name:
            raise _refused("name", "no-file-name")
        said = int(request.META.get("CONTENT_LENGTH") or 0)
        if said > MAX_BYTES + (MULTIPART_BYTES if multipart else 0):
            raise _too_large()
        key = request.headers.get("Idempotency-Key")
        # A repeat is compared with the first request, and its bytes are not stored again.
        kept = key is None or not is_kept(access.key, key_of(key))
        self.upload = Upload(
            access.account, expected=max(0, said - MULTIPART_BYTES) if multipart else said, kept=kept
        )
        self.content_type = None if request.content_type in (SAYS_NOTHING, "") else request.content_type
        self._parts = self._parser(request) if multipart else None
        self._files = self._seen = 0
        self._in_file = self._begun = self._finished = False

    @property
    def described(self) -> str:
        """The text that must be equal in a repeat of the same request."""
        return f"{self.name}\n{self.content_type or ''}\n{self.upload.size}\n{self.upload.sha256}"

    def feed(self, piece: bytes) -> None:
        """Store a piece; raises Told, TooLarge or FilesFull."""
        close_old_connections()  # the previous piece may have come a minute ago, on another connection
        if self._parts is None:
            self._begin()
            self.upload.write(piece)
            return
        self._seen += len(piece)
        if self._seen > MAX_BYTES + MULTIPART_BYTES:
            raise _too_large()
        with _multipart_errors():
            for event in self._parts.parse(piece) if piece and not self._parts.closed else ():
                self._take(event)

    def end(self) -> None:
        """End the upload; raises Told if the body did not contain exactly one file."""
        if self._parts is None:
            self._begin()  # an empty file has no pieces
            return
        with _multipart_errors():
            self._parts.close()
        if self._files != 1:
            raise _not_one()

    def finish(self) -> File:
        """Turn the upload into a file; raises IdempotencyInProgress if the first request's key is being deleted."""
        file = self.upload.finish()
        if file is None:
            raise IdempotencyInProgress
        self._finished = True
        return file

    def close(self) -> None:
        """Delete the stored bytes, unless they have become a file."""
        if not self._finished:
            with suppress(*ConnectionLost):  # retention removes it
                self.upload.discard()

    def _parser(self, request: HttpRequest) -> PushMultipartParser:
        _, options = parse_options_header(request.META.get("CONTENT_TYPE", ""))
        with _multipart_errors():
            return PushMultipartParser(options.get("boundary", ""), max_segment_count=MULTIPART_PARTS)

    def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._in_file = bool(event.filename)
            if self._in_file and event.name != "file":
                raise _refused("file", "other-file-field")
            self._files += self._in_file
            if self._files > 1:
                raise _not_one()
            if self._in_file:
                self.name, self.content_type = self.name or event.filename or "", event.content_type
                self._begin()
        elif event and self._in_file:
            self.upload.write(bytes(event))

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.upload.begin(self.name, self.content_type)


@contextmanager
def received(request: HttpRequest, access: Access, name: str) -> Iterator[Arriving]:
    """Yield the upload once all of it has arrived; delete its bytes if it does not become a file.

    Raises NeedsBody if the body has not arrived yet; Told, TooLarge, FilesFull or QuotaFull if the upload is refused.
    """
    scope: dict[str, Any] = getattr(request, "scope", {})
    arriving: Arriving | None = scope.get(SINK)
    if arriving is None:
        arriving = Arriving(request, access, name)
        if isinstance(getattr(request, "_stream", None), NotYet):
            raise NeedsBody(arriving)
        try:
            while piece := request.read(CHUNK_BYTES):
                arriving.feed(piece)
        except BaseException:
            arriving.close()
            raise
    try:
        if arriving.account != access.account:  # the token passed to another account meanwhile
            raise Told(Problem(code="unauthenticated", status=401))
        arriving.end()
        yield arriving
    finally:
        arriving.close()


@contextmanager
def _multipart_errors() -> Iterator[None]:
    try:
        yield
    except MultipartError as error:
        why = str(error.args[0] if error.args else "it is incomplete").rstrip(".")
        detail = f"The multipart body cannot be read: {why}. Names are in UTF-8."
        raise Told(Problem(code="bad-request", status=400, detail=detail)) from None


def _too_large() -> TooLarge:
    return TooLarge("file", MAX_BYTES)


def _not_one() -> Told:
    return _refused("file", "not-one-file")


def _refused(parameter: str, code: str) -> Told:
    return Told(invalid([Mistake(code=code, parameter=parameter)]))
