"""Files in PostgreSQL, uploads and results alike, so that every process can read them and one backup holds everything.

A file is a row and chunks of 256 KiB, written as the bytes arrive. It is visible to readers once its checksum is set,
by the last statement of its writer. The incomplete file of a process that died has no checksum, is never shown, and is
removed by retention. A result file belongs to one attempt: only the attempt that completes its job gets its files
attached.
"""

from __future__ import annotations

import hashlib
import io
import mimetypes
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast
from uuid import UUID

from django.db.models import QuerySet

from esteira.db import ConnectionLost, Db, DjangoConnection, erasing
from esteira.errors import NotFound, TooLarge, TooManyFiles
from esteira.files.space import Space, used
from esteira.ids import uuid7
from esteira.models import File
from esteira.values.bounds import FILES_OF_A_JOB

CHUNK_BYTES = 256 * 1024
MAX_BYTES = 100 * 1024**2
MAX_NAME = 255
UNKNOWN_TYPE = "application/octet-stream"
_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(; ?charset=[a-z0-9_-]+)?")


def save_upload(name: str, content_type: str | None, chunks: Iterable[bytes]) -> File:
    """Store an upload in one transaction: all of it, or nothing.

    At most 100 MiB. Raises TooLarge, or FilesFull when the space for all files is used up.
    """
    db = DjangoConnection()
    with used.by_open_transaction() as space, db.transaction():
        safe = safe_name(name)
        writer = ChunkWriter(db, new_row(db, safe, safe_type(content_type, safe)), space)
        for chunk in chunks:
            writer.write(chunk)
        writer.finish()
    return File.objects.get(pk=writer.file_id)


@contextmanager
def open_result(
    job_id: UUID, attempt: int, name: str, content_type: str | None = None, *, db: Db
) -> Iterator[IO[bytes]]:
    """Open a result file of an attempt for writing.

    It replaces one of the same name when the block ends without an error.

    `db` should be a private connection: the chunks are committed as they arrive, independently of the job's own
    transaction. Raises TooManyFiles; files that are still being written count too.
    """
    safe = safe_name(name)
    row = new_row(db, None, safe_type(content_type, safe), job_id, attempt, replaces=safe)
    writer = ChunkWriter(db, row)
    try:
        yield cast(IO[bytes], writer)
        with db.transaction():
            _delete_namesakes(db, job_id, attempt, safe)
            db.fetch("UPDATE esteira_file SET name = %s WHERE id = %s", [safe, row])
            writer.finish()
    except BaseException:
        with suppress(
            *ConnectionLost
        ):  # without its checksum the file is invisible, and retention removes it
            erasing.delete(db, [row])
        raise


def result_files(job_id: UUID) -> list[File]:
    """List the files of the attempt that completed the job, by name, up to the most that it may store."""
    return list(_of_the_job(job_id)[:FILES_OF_A_JOB])


def result_file(job_id: UUID, name: str) -> File:
    """Find the file of this name among them; raises NotFound."""
    file = _of_the_job(job_id).filter(name=name).first()
    if file is None:
        raise NotFound("file", name, "not-found.of-job", job=job_id)
    return file


def _of_the_job(job_id: UUID) -> QuerySet[File]:
    return File.objects.filter(job_id=job_id, attached_at__isnull=False).exclude(sha256="").order_by("name")


def open_file(ref: str | UUID, *, db: Db | None = None) -> IO[bytes]:
    """Open an upload or an attached result for reading; seekable, chunks are fetched as they are read.

    Its `name` is the stored one. Raises NotFound if there is no such file, or it was deleted.
    """
    db = db or DjangoConnection()
    try:
        file_id = ref if isinstance(ref, UUID) else UUID(ref)
    except ValueError:
        raise NotFound("file", ref) from None
    rows = db.fetch(
        """SELECT size, name FROM esteira_file
           WHERE id = %s AND sha256 <> '' AND (job_id IS NULL OR attached_at IS NOT NULL)""",
        [file_id],
    )
    if not rows:
        raise NotFound("file", ref)
    return io.BufferedReader(ChunkReader(db, file_id, *rows[0]), CHUNK_BYTES)


def chunks_of(
    file: File, *, start: int = 0, stop: int | None = None, db: Db | None = None
) -> Iterator[bytes]:
    """Yield a file's bytes, or those from `start` to before `stop`, one chunk and one statement at a time."""
    db = db or DjangoConnection()
    stop = file.size if stop is None else stop
    for seq in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
        first = seq * CHUNK_BYTES
        yield _chunk(db, file.pk, seq)[max(0, start - first) : stop - first]


class ChunkWriter(io.RawIOBase):
    """Cuts the written bytes into chunks; nothing is readable before `finish`."""

    def __init__(self, db: Db, file_id: UUID, space: Space | None = None) -> None:
        super().__init__()
        self.file_id = file_id
        self._db, self._space = db, space
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._size = self._seq = 0

    @property
    def unstored(self) -> bytes:
        """The bytes that wait until a chunk is full."""
        return bytes(self._buffer)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any, /) -> int:
        """Take all of the bytes; raises TooLarge or FilesFull."""
        if self.closed:
            raise ValueError("the file is closed")
        with memoryview(data) as view:
            length = view.nbytes
            if self._size + length > MAX_BYTES:
                raise TooLarge("file", MAX_BYTES)
            used.refuse_more_than_fits(self._db, length, self._space)
            self._buffer += view.cast("B") if length else b""
        self._size += length
        while len(self._buffer) >= CHUNK_BYTES:
            self._store(CHUNK_BYTES)
        return length

    def finish(self) -> None:
        """Store the rest, then size and checksum: from here on the file exists."""
        if self._buffer:
            self._store(len(self._buffer))
        self._db.fetch(
            "UPDATE esteira_file SET size = %s, sha256 = %s WHERE id = %s",
            [self._size, self._digest.hexdigest(), self.file_id],
        )

    def _store(self, length: int) -> None:
        chunk = bytes(self._buffer[:length])
        # The size grows with the chunks, so that the space of a writer that dies is counted until its file is removed.
        self._db.fetch(
            """WITH grown AS (UPDATE esteira_file SET size = size + %s WHERE id = %s)
               INSERT INTO esteira_filechunk (file_id, seq, data) VALUES (%s, %s, %s)""",
            [length, self.file_id, self.file_id, self._seq, chunk],
        )
        self._digest.update(chunk)
        self._seq += 1
        del self._buffer[:length]


class ChunkReader(io.RawIOBase):
    """Reads a stored file; caches the current chunk."""

    def __init__(self, db: Db, file_id: UUID, size: int, name: str) -> None:
        super().__init__()
        self.name = name  # a buffered reader around it has the same name
        self._db, self._id, self._size = db, file_id, size
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("cannot seek before the beginning of the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        if self._at >= self._size:
            return 0
        seq, start = divmod(self._at, CHUNK_BYTES)
        if self._held[0] != seq:
            self._held = (seq, _chunk(self._db, self._id, seq))
        piece = self._held[1][start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def safe_name(name: str) -> str:
    """Return a name without folders and control characters, at most 255 characters, with its extension."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    if not plain.strip("."):
        return "file"
    if len(plain) <= MAX_NAME:
        return plain
    stem, dot, ending = plain.rpartition(".")
    if not dot or len(ending) > 20:
        return plain[:MAX_NAME]
    return stem[: MAX_NAME - len(ending) - 1] + dot + ending


def safe_type(content_type: str | None, name: str) -> str:
    """Return a plain media type: the given one if it is well-formed, otherwise the one for the name's extension."""
    given = (content_type or "").strip().lower()
    if len(given) <= 120 and _CONTENT_TYPE.fullmatch(given) and given != UNKNOWN_TYPE:
        return given
    return mimetypes.guess_type(name)[0] or UNKNOWN_TYPE


def new_row(
    db: Db,
    name: str | None,
    content_type: str,
    job_id: UUID | None = None,
    attempt: int | None = None,
    account: str = "",
    replaces: str = "",
) -> UUID:
    """Create the row of a file that is being written; without a name it gets a unique provisional one.

    One statement counts and inserts, so that the threads of a job together store no more files than allowed.
    """
    file_id = uuid7()
    stored = db.fetch(
        """INSERT INTO esteira_file (id, job_id, attempt, name, content_type, account, size, sha256)
           SELECT %(id)s::uuid, %(job)s::uuid, %(attempt)s::int, %(name)s, %(type)s, %(account)s, 0, ''
           WHERE (SELECT count(*) FROM (SELECT 1 FROM esteira_file WHERE job_id = %(job)s::uuid
             AND attempt = %(attempt)s::int AND name <> %(replaces)s LIMIT %(most)s) AS others) < %(most)s
           RETURNING 1""",
        {
            "id": file_id,
            "job": job_id,
            "attempt": attempt,
            "name": name or f"{file_id}.part",
            "type": content_type,
            "account": account,
            "replaces": replaces,
            "most": FILES_OF_A_JOB,
        },
    )
    if not stored:
        raise TooManyFiles(FILES_OF_A_JOB)
    return file_id


def _delete_namesakes(db: Db, job_id: UUID, attempt: int, name: str) -> None:
    rows = db.fetch(
        "SELECT id FROM esteira_file WHERE job_id = %s AND attempt = %s AND name = %s",
        [job_id, attempt, name],
    )
    erasing.delete(db, [row[0] for row in rows])


def _chunk(db: Db, file_id: UUID, seq: int) -> bytes:
    rows = db.fetch("SELECT data FROM esteira_filechunk WHERE file_id = %s AND seq = %s", [file_id, seq])
    if not rows:
        raise NotFound("file", file_id, "not-found.removed-meanwhile")
    return bytes(rows[0][0])
