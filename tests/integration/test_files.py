"""Files: whole or not at all, read back byte for byte, and seen only when they are complete."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID
from zipfile import ZipFile

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from esteira import LocalContext, files
from esteira.db import DjangoConnection, PrivateConnection
from esteira.errors import FilesFull, NotFound, TooLarge, TooManyFiles
from esteira.files import (
    CHUNK_BYTES,
    chunks_of,
    open_file,
    open_result,
    result_file,
    result_files,
    save_upload,
)
from esteira.files.space import used
from esteira.job_types import context
from esteira.models import File, FileChunk, Job
from esteira.values.bounds import FILES_OF_A_JOB
from tests.support.jobs import UNKNOWN_ID

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    used.forget()


@pytest.fixture
def core() -> Iterator[PrivateConnection]:
    core = PrivateConnection("test")
    yield core
    core.close()


@pytest.fixture
def job() -> Job:
    return Job.objects.create(type="demo.nothing")


def attach(job: Job, attempt: int = 1) -> None:
    DjangoConnection().fetch(
        "UPDATE esteira_file SET attached_at = clock_timestamp() WHERE job_id = %s AND attempt = %s",
        [job.pk, attempt],
    )


def write(
    core: PrivateConnection,
    job: Job,
    *pieces: bytes,
    name: str = "out.txt",
    attempt: int = 1,
    fails: bool = False,
) -> None:
    """Write a result file as a job function would; one that fails does so after its last piece."""
    with open_result(job.pk, attempt, name, db=core) as out:
        for piece in pieces:
            out.write(piece)
        if fails:
            raise RuntimeError


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_an_upload_comes_back_byte_for_byte(size: int) -> None:
    data = os.urandom(size)

    file = save_upload("data.bin", None, (data[i : i + 1000] for i in range(0, size, 1000)))

    assert (file.size, file.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert b"".join(chunks_of(file)) == data
    assert open_file(str(file.pk)).read() == data
    assert FileChunk.objects.filter(file=file).count() == -(-size // CHUNK_BYTES)


def test_a_stored_file_can_be_read_from_anywhere() -> None:
    data = os.urandom(2 * CHUNK_BYTES + 100)
    file = save_upload("data.bin", None, [data])

    with open_file(file.pk) as stored:
        stored.seek(CHUNK_BYTES - 10)
        assert stored.read(20) == data[CHUNK_BYTES - 10 : CHUNK_BYTES + 10]
        stored.seek(-5, io.SEEK_END)
        assert stored.read() == data[-5:]
        stored.seek(len(data) + 1)
        assert stored.read(1) == b""


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    def breaks_off() -> Iterator[bytes]:
        yield b"x" * CHUNK_BYTES * 2
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        save_upload("half.bin", None, breaks_off())

    assert not File.objects.exists()
    assert not FileChunk.objects.exists()


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1024**2)

    with pytest.raises(TooLarge, match="1 MiB"):
        save_upload("big.bin", None, [b"x" * 1024**2, b"x"])

    assert not File.objects.exists()


def test_the_space_for_all_files_is_limited(settings) -> None:
    settings.ESTEIRA_FILES_MAX_TOTAL = 1000
    save_upload("first.bin", None, [b"x" * 600])

    with pytest.raises(FilesFull):
        save_upload("second.bin", None, [b"x" * 600])

    assert [file.name for file in File.objects.all()] == ["first.bin"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ana\\café.png", "café.png"),
        ("a\r\nSet-Cookie: b.txt", "aSet-Cookie: b.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("..", "file"),
        ("  ", "file"),
        ("", "file"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("x" * 300, "x" * 255),
    ],
)
def test_names_lose_folders_and_control_characters(given: str, kept: str) -> None:
    assert save_upload(given, None, [b"x"]).name == kept


@pytest.mark.parametrize(
    ("given", "name", "kept"),
    [
        ("image/png", "a", "image/png"),
        ("text/plain; charset=utf-8", "a", "text/plain; charset=utf-8"),
        (None, "a.pdf", "application/pdf"),
        ("application/octet-stream", "a.png", "image/png"),
        ("text/html\r\nX: y", "a", "application/octet-stream"),
        ("nonsense", "a", "application/octet-stream"),
    ],
)
def test_a_media_type_is_well_formed_or_comes_from_the_name(given: str | None, name: str, kept: str) -> None:
    assert save_upload(name, given, [b"x"]).content_type == kept


@pytest.mark.parametrize("ref", ["", "nonsense", "../x", str(UNKNOWN_ID)])
def test_a_file_that_does_not_exist_is_not_found(ref: str) -> None:
    with pytest.raises(NotFound):
        open_file(ref)


def test_a_result_file_is_seen_once_its_attempt_has_completed_the_job(
    job: Job, core: PrivateConnection
) -> None:
    write(core, job, b"a,b\n", name="report.csv")
    file = File.objects.get()

    with pytest.raises(NotFound):
        open_file(file.pk)
    assert result_files(job.pk) == []

    attach(job)
    assert [(f.name, f.content_type) for f in result_files(job.pk)] == [("report.csv", "text/csv")]
    assert open_file(file.pk).read() == b"a,b\n"


def test_a_result_file_whose_writing_failed_is_never_seen(job: Job, core: PrivateConnection) -> None:
    with pytest.raises(RuntimeError):
        write(core, job, b"x" * CHUNK_BYTES * 2, fails=True)

    attach(job)
    assert result_files(job.pk) == []
    assert not FileChunk.objects.exists()


def test_a_result_file_that_a_dead_process_left_is_never_seen(job: Job, core: PrivateConnection) -> None:
    writing = open_result(job.pk, 1, "left.bin", db=core)
    writing.__enter__().write(b"x" * CHUNK_BYTES)

    attach(job)
    assert result_files(job.pk) == []
    with pytest.raises(NotFound):
        open_file(File.objects.get().pk)
    writing.__exit__(RuntimeError, RuntimeError(), None)


def test_the_last_of_two_files_with_one_name_stays(job: Job, core: PrivateConnection) -> None:
    write(core, job, b"first")
    write(core, job, b"second")

    attach(job)
    (file,) = result_files(job.pk)
    assert b"".join(chunks_of(file)) == b"second"
    assert FileChunk.objects.count() == 1


def test_a_failed_second_writing_keeps_the_first_file(job: Job, core: PrivateConnection) -> None:
    write(core, job, b"first")
    with pytest.raises(RuntimeError):
        write(core, job, b"second", fails=True)

    attach(job)
    assert [b"".join(chunks_of(file)) for file in result_files(job.pk)] == [b"first"]


def test_a_zip_and_a_text_can_be_streamed_into_a_result(job: Job, core: PrivateConnection) -> None:
    with open_result(job.pk, 1, "all.zip", db=core) as out, ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "a" * 1000)
    with open_result(job.pk, 1, "all.txt", db=core) as out, io.TextIOWrapper(out, encoding="utf-8") as text:
        text.write("olá")

    attach(job)
    text_file, zip_file = result_files(job.pk)
    assert b"".join(chunks_of(text_file)).decode() == "olá"
    assert ZipFile(open_file(zip_file.pk)).read("a.txt") == b"a" * 1000


def test_a_result_file_is_stored_although_the_jobs_own_transaction_rolls_back(
    job: Job, core: PrivateConnection
) -> None:
    transaction.set_autocommit(False)
    write(core, job, b"kept")
    transaction.rollback()
    transaction.set_autocommit(True)

    assert File.objects.get().name == "out.txt"


def test_a_job_stores_so_many_files_and_no_more(
    job: Job, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_OF_A_JOB", 3)
    for n in range(3):
        write(core, job, b"x", name=f"{n}.txt")

    with pytest.raises(TooManyFiles, match=r"files: .* at most 3 .* archive"):
        write(core, job, b"x", name="one-too-many.txt")
    write(core, job, b"again", name="1.txt")  # it takes the place of its namesake
    write(core, job, b"x", name="0.txt", attempt=2)  # and another attempt begins anew

    attach(job)
    assert [file.name for file in result_files(job.pk)] == ["0.txt", "1.txt", "2.txt"]


def test_threads_of_a_job_store_no_more_files_than_it_may(
    job: Job, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_OF_A_JOB", 5)

    def store(n: int) -> bool:
        try:
            write(core, job, b"x", name=f"{n}.txt")
        except TooManyFiles:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        stored = sum(pool.map(store, range(40)))

    attach(job)
    assert stored == len(result_files(job.pk)) == 5


def test_a_test_of_a_job_meets_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "FILES_OF_A_JOB", 1)
    ctx = LocalContext()
    for _ in range(2):
        with ctx.file("a.txt") as out:
            out.write(b"x")

    with pytest.raises(TooManyFiles), ctx.file("b.txt"):
        pass

    assert list(ctx.files) == ["a.txt"]


def test_reading_a_jobs_files_ends_at_their_bound_whoever_wrote_them(
    job: Job, core: PrivateConnection
) -> None:
    core.fetch(
        """INSERT INTO esteira_file (id, job_id, attempt, name, content_type, account, size, sha256, attached_at)
           SELECT gen_random_uuid(), %s, 1, to_char(n, 'FM000000'), 'text/plain', '', 0, 'x', clock_timestamp()
           FROM generate_series(1, 20000) n""",
        [job.pk],
    )

    with CaptureQueriesContext(connection) as asked:
        listed, one = result_files(job.pk), result_file(job.pk, "019999")
    plan = "\n".join(query["sql"] for query in asked)

    assert (len(listed), listed[0].name, one.name) == (FILES_OF_A_JOB, "000001", "019999")
    assert len(asked) == 2, plan


def test_files_of_another_attempt_stay_unseen(job: Job, core: PrivateConnection) -> None:
    write(core, job, b"1", attempt=1)
    write(core, job, b"2", attempt=2)

    attach(job, attempt=2)
    assert [b"".join(chunks_of(file)) for file in result_files(job.pk)] == [b"2"]


def test_an_upload_belongs_to_no_job() -> None:
    file = save_upload("a.txt", None, [b"x"])

    assert isinstance(file.pk, UUID)
    assert (file.job_id, file.attempt, file.attached_at) == (None, None, None)


def test_the_space_of_writers_that_died_counts(job: Job, core: PrivateConnection, settings) -> None:
    settings.ESTEIRA_FILES_MAX_TOTAL = 5 * CHUNK_BYTES
    for n in range(2):
        used.forget()  # as in a process of its own
        row = files.new_row(core, None, "text/plain", job.pk, n)
        files.ChunkWriter(core, row).write(b"x" * 2 * CHUNK_BYTES)  # and here the process dies

    used.forget()
    with pytest.raises(FilesFull):
        save_upload("more.bin", None, [b"x" * 2 * CHUNK_BYTES])

    assert save_upload("fits.bin", None, [b"x" * CHUNK_BYTES]).size == CHUNK_BYTES


def test_the_space_of_uploads_under_way_counts(settings) -> None:
    settings.ESTEIRA_FILES_MAX_TOTAL = 5 * CHUNK_BYTES
    refused: list[str] = []

    def meanwhile() -> Iterator[bytes]:
        """Bytes of a first upload, in whose midst another thread sends a second one."""
        yield b"x" * 3 * CHUNK_BYTES
        used._asked = float("-inf")  # the time to ask again has come
        second = threading.Thread(target=send_another)
        second.start()
        second.join(20)

    def send_another() -> None:
        try:
            save_upload("second.bin", None, [b"x" * 3 * CHUNK_BYTES])
        except FilesFull as error:
            refused.append(error.code)
        finally:
            connection.close()

    first = save_upload("first.bin", None, meanwhile())

    assert first.size == 3 * CHUNK_BYTES
    assert refused == [FilesFull().code]
    assert [file.name for file in File.objects.all()] == ["first.bin"]
