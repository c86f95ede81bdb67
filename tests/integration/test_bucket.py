"""Copies of the backups in a bucket: dumped, uploaded, lost, fetched and restored; and what a failure leaves there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from project import bucket
from project.local.embedded import free_port
from tests.support.backup_scripts import BackupScripts, backup_scripts_at
from tests.support.bucket import Store
from tests.support.servers import SuiteServers
from tests.support.waiting import until

OLD = [f"esteira-2025010{day}T031500Z.dump" for day in range(1, 6)]


@pytest.fixture(scope="module")
def the_store() -> Iterator[Store]:
    store = Store()
    yield store
    store.stop()


@pytest.fixture
def store(the_store: Store) -> Store:
    the_store.empty()
    return the_store


@pytest.fixture
def nightly(servers: SuiteServers, tmp_path: Path) -> Iterator[BackupScripts]:
    with backup_scripts_at(servers.postgres, tmp_path / "volume") as found:
        yield found


def run(nightly: BackupScripts, store: Store, *words: str, **settings: str) -> tuple[int, str]:
    """Run it as the pod or the container does."""
    process = nightly.popen(sys.executable, "-m", "project.bucket", *words, **store.settings(**settings))
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try is as good as four."""
    monkeypatch.setattr(bucket, "PAUSES_S", ())


@pytest.fixture
def copies(
    nightly: BackupScripts, store: Store, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> bucket.Copies:
    """In this process, with the environment of the pod."""
    for name, value in (nightly.environment() | store.settings()).items():
        monkeypatch.setenv(name, value)
    return bucket.Copies()


# --- There and back ------------------------------------------------------------------------------------------------------


def test_what_was_lost_with_its_volume_comes_back_from_the_bucket(
    nightly: BackupScripts, store: Store
) -> None:
    with nightly.connect() as connection:
        connection.execute("INSERT INTO esteira_job SELECT generate_series(2, 499)")
    dump = nightly.back_up()
    ended, said = run(nightly, store, "once")
    assert ended == 0, said
    assert store.names() == [dump.name]
    assert nightly.told("upload") == (True, False)
    with nightly.connect() as connection:
        connection.execute("TRUNCATE esteira_job")
    dump.unlink()

    ended, said = run(nightly, store, "fetch")
    assert ended == 0, said
    assert [path.name for path in nightly.files()] == [dump.name]
    assert oct(nightly.files()[0].stat().st_mode & 0o777) == "0o600"
    ended, said = nightly.restore()

    assert ended == 0, said
    assert nightly.rows() == list(range(1, 500))


def test_a_dump_in_many_parts_arrives_as_it_was(copies: bucket.Copies, store: Store) -> None:
    content = os.urandom(2 * bucket.PART_BYTES + 12345)
    (copies.folder / OLD[0]).write_bytes(content)

    bucket.once(copies)

    assert store.content(OLD[0]) == content
    (copies.folder / OLD[0]).unlink()
    bucket.fetch(copies, OLD[0])
    assert (copies.folder / OLD[0]).read_bytes() == content


def test_another_dump_is_fetched_by_its_name_and_one_that_is_there_is_left_alone(
    copies: bucket.Copies, store: Store
) -> None:
    for name in OLD[:2]:
        store.put(name, name.encode())

    bucket.fetch(copies, OLD[0])
    assert (copies.folder / OLD[0]).read_bytes() == OLD[0].encode()
    (copies.folder / OLD[0]).write_bytes(b"mine")
    bucket.fetch(copies, OLD[0])
    bucket.fetch(copies, "")

    assert {path.name: path.read_bytes() for path in copies.folder.iterdir()} == {OLD[0]: b"mine"}


def test_what_is_nowhere_is_not_fetched_and_what_there_is_is_told(
    copies: bucket.Copies, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(OLD[0])

    with pytest.raises(SystemExit):
        bucket.fetch(copies, OLD[1])

    assert f"{OLD[1]} is not in the bucket either. The bucket has: {OLD[0]}" in capsys.readouterr().err
    assert not list(copies.folder.iterdir())


def test_the_list_says_what_is_where(copies: bucket.Copies, store: Store) -> None:
    for name in OLD[1:]:
        (copies.folder / name).write_bytes(b"a dump")
    for name in OLD[:2]:
        store.put(name)

    told = copies.listed()

    assert [line.split()[0] for line in told] == OLD
    assert [line.split("bytes  ")[1] for line in told] == ["bucket", "volume and bucket", *["volume"] * 3]


# --- Retention -----------------------------------------------------------------------------------------------------------


def test_the_bucket_keeps_the_newest_of_both_and_leaves_what_is_not_ours(
    copies: bucket.Copies, store: Store
) -> None:
    copies.kept = 3
    for name in OLD[:4]:
        store.put(name)
    store.put("notes.txt")
    for name in (OLD[0], OLD[4]):
        (copies.folder / name).write_bytes(b"a dump")

    bucket.once(copies)
    bucket.once(copies)

    assert store.names() == [*OLD[2:], "notes.txt"]


@pytest.mark.parametrize("kept", ["0", "-1", "many"])
def test_a_bucket_that_would_keep_nothing_is_refused(nightly: BackupScripts, store: Store, kept: str) -> None:
    store.put(OLD[0])

    ended, said = run(nightly, store, "once", BACKUP_BUCKET_KEPT=kept)

    assert ended != 0
    assert f"BACKUP_BUCKET_KEPT={kept} is not a number of dumps" in said
    assert store.names() == [OLD[0]]


def test_nothing_is_deleted_while_an_upload_fails(
    copies: bucket.Copies, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies.kept = 1
    for name in OLD[:3]:
        store.put(name)
    (copies.folder / OLD[4]).write_bytes(b"a dump")
    monkeypatch.setenv("BACKUP_BUCKET_SECRET", "another")

    with pytest.raises(SystemExit) as ended:
        bucket.once(copies)

    assert "The upload failed. Nothing in the bucket was changed" in str(ended.value)
    assert store.names() == OLD[:3]


# --- What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"BACKUP_BUCKET_SECRET": "another"}, "SignatureDoesNotMatch"),
        ({"BACKUP_BUCKET_KEY": "AKIAANOTHERKEY"}, "InvalidAccessKeyId"),
        ({"BACKUP_BUCKET": "elsewhere"}, "NoSuchBucket"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_refusal_is_told_in_the_store_s_words_and_in_the_database(
    nightly: BackupScripts,
    copies: bucket.Copies,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: dict[str, str],
    said: str,
) -> None:
    nightly.back_up()
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as ended:
        bucket.once(bucket.Copies())

    assert ended.value.code
    assert said in capsys.readouterr().err
    assert nightly.told("upload") == (False, True)


def test_without_a_key_of_ours_that_of_the_machine_is_used(
    copies: bucket.Copies, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copies.folder / OLD[0]).write_bytes(b"a dump")
    for name in ("BACKUP_BUCKET_KEY", "BACKUP_BUCKET_SECRET"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret)

    bucket.once(copies)

    assert store.names() == [OLD[0]]


def test_a_key_without_its_secret_is_refused_with_a_sentence(
    nightly: BackupScripts, store: Store, impatient: None
) -> None:
    nightly.back_up()

    ended, said = run(nightly, store, "list", BACKUP_BUCKET_SECRET="")

    assert ended != 0
    assert "BACKUP_BUCKET_KEY and BACKUP_BUCKET_SECRET belong together" in said
    assert "Traceback" not in said


def test_a_bucket_of_aws_needs_no_address(copies: bucket.Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKUP_BUCKET_ENDPOINT", "BACKUP_BUCKET_PREFIX", "BACKUP_BUCKET_REGION"):
        monkeypatch.setenv(name, "")

    assert copies.store().config["region"] == "us-east-1"


def test_an_upload_that_was_killed_leaves_no_dump_and_the_next_one_is_whole(
    nightly: BackupScripts, store: Store
) -> None:
    (nightly.folder / OLD[0]).write_bytes(bytes(20 * bucket.PART_BYTES))
    process = nightly.popen(sys.executable, "-m", "project.bucket", "once", **store.settings())
    until(store.under_way, "the upload has begun", every=0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert store.names() == []

    ended, said = run(nightly, store, "once")

    assert ended == 0, said
    assert len(store.content(OLD[0])) == 20 * bucket.PART_BYTES


def test_of_two_that_differ_neither_is_touched(
    copies: bucket.Copies, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(OLD[0], b"whole")
    (copies.folder / OLD[0]).write_bytes(b"who")
    (copies.folder / OLD[1]).write_bytes(b"the next one")

    with pytest.raises(SystemExit):
        bucket.once(copies)

    assert f"{OLD[0]} has another size in the bucket than here" in capsys.readouterr().err
    assert store.content(OLD[0]) == b"whole"
    assert store.names() == OLD[:2], "the others are uploaded all the same"


def test_the_container_goes_on_by_itself_once_the_store_is_back(
    nightly: BackupScripts, store: Store, tmp_path: Path
) -> None:
    """It shows its failure, as its health check asks, and takes a key that was changed meanwhile."""
    nightly.back_up()
    (tmp_path / "key").write_text("wrong\n")
    given = store.settings(BACKUP_BUCKET_KEY="", BACKUP_BUCKET_KEY_FILE=str(tmp_path / "key"))
    quick = "import project.bucket as b; b.PAUSES_S = (0.2,); b.LOOK_S = 0.2; b.main(['keep'])"
    process = nightly.popen(sys.executable, "-c", quick, TMPDIR=str(tmp_path), **given)
    try:
        until((tmp_path / "failed").exists, "the upload has failed")
        (tmp_path / "key").write_text(store.key)
        until(store.names, "the upload has worked")
        until(lambda: not (tmp_path / "failed").exists(), "nothing is wrong any more")
        later = nightly.folder / "esteira-20990101T000000Z.dump"
        later.write_bytes(b"a dump")
        until(lambda: later.name in store.names(), "the next dump is uploaded as well")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_store_that_is_away_is_told(copies: bucket.Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    (copies.folder / OLD[0]).write_bytes(b"a dump")
    monkeypatch.setenv("BACKUP_BUCKET_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(bucket, "RETRIES", 0)

    with pytest.raises(SystemExit):
        bucket.once(bucket.Copies())


def test_without_a_bucket_nothing_is_uploaded_and_nothing_fails(nightly: BackupScripts, store: Store) -> None:
    nightly.back_up()

    ended, said = run(nightly, store, "once", BACKUP_BUCKET="")
    assert (ended, "BACKUP_BUCKET is not set" in said) == (0, True)
    ended, said = run(nightly, store, "fetch", OLD[0], BACKUP_BUCKET="")
    assert (ended, "is not in the folder, and BACKUP_BUCKET is not set" in said) == (0, True)
    ended, said = run(nightly, store, "keep", BACKUP_BUCKET="")
    assert (ended, "Set BACKUP_BUCKET to the name of the bucket." in said) == (1, True)
