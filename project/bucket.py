"""Copies of the backups in a bucket of an S3-compatible store, away from the machine that made them.

Whatever dump is in the folder and not in the bucket is uploaded, the newest first; then the oldest go from the bucket,
beyond as many as BACKUP_BUCKET_KEPT. A dump has its name in the bucket once it is there whole, and what is there is not
written over. Nothing is deleted after an upload that failed, and never the newest. Killed anywhere, the next run does
the rest. Needs no Django; how it ended is written to the table esteira_backup, if there is a way to it.

`once` gives up after some tries (Kubernetes), `keep` never does (compose); `list` says what is where; `fetch` puts a
dump into the folder that is not there, by its name, or the newest if the folder has none.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import psycopg
from obstore.exceptions import BaseError
from obstore.store import S3Store

DUMP = re.compile(r"esteira-\d{8}T\d{6}Z\.dump")
PART_BYTES, MOST_PARTS = 8 * 1024**2, 9_000  # a store takes 10,000 parts of a file at most
#: Between the tries of one run, and at most between those of `keep`; each request is repeated by itself before.
PAUSES_S = (30.0, 60.0, 120.0)
LONGEST_PAUSE_S = 3600.0
RETRIES = 5
LOOK_S = 5.0
FAILED = Path(tempfile.gettempdir()) / "failed"  # read by compose/nightly/healthy
TOLD = """
INSERT INTO esteira_backup (step, {0}) VALUES ('upload', clock_timestamp())
ON CONFLICT (step) DO UPDATE SET {0} = excluded.{0}
"""


class NotCopied(Exception):
    """The bucket does not have what it should; the message says what to do."""


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["once"]:
            once(Copies())
        case ["keep"]:
            keep(Copies())
        case ["list"]:
            if not attempt(lambda: print("\n".join(Copies().listed()))):
                sys.exit(1)
        case ["fetch", *names] if len(names) <= 1:
            fetch(Copies(), "".join(names))
        case _:
            sys.exit("Say once, keep, list, or fetch and perhaps the name of a dump.")


def once(copies: Copies) -> None:
    """Copy, with some patience; ends with 1 if that failed."""
    if not copies.named:
        print("No bucket is named in BACKUP_BUCKET: the dump is in its volume only.")
        return
    for pause in (*PAUSES_S, None):
        if attempt(copies.copy):
            tell("succeeded_at")
            return
        tell("failed_at")
        if pause is not None:
            time.sleep(pause)
    sys.exit(
        "The upload failed. What is in the bucket is untouched, and the next run uploads what is missing."
    )


def keep(copies: Copies) -> None:
    """Copy whenever the folder has changed, and again after a failure, as long as it takes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if not copies.named:
        sys.exit("Name the bucket in BACKUP_BUCKET.")
    FAILED.unlink(missing_ok=True)
    copied, pause = None, PAUSES_S[0]
    while True:
        if (here := set(copies.here())) != copied and here:
            if attempt(copies.copy):
                copied, pause = here, PAUSES_S[0]
                FAILED.unlink(missing_ok=True)
                tell("succeeded_at")
            else:
                FAILED.touch()
                tell("failed_at")
                print(f"It is tried again in {pause:g} s.", file=sys.stderr, flush=True)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        time.sleep(LOOK_S)


def fetch(copies: Copies, name: str) -> None:
    """Get a dump that the folder lacks; without a bucket there is nothing to get, and whoever restores will say so."""
    here = copies.here()
    if name in here or (here and not name):
        print(f"{name or max(here)} is in the folder.")
    elif not copies.named:
        print(f"{name or 'A dump'} is not in the folder, and no bucket is named in BACKUP_BUCKET.")
    elif not attempt(lambda: copies.fetch(name)):
        sys.exit(1)


def attempt(action: Callable[[], None]) -> bool:
    """Say in one line why it failed, if it did."""
    try:
        action()
    except (BaseError, NotCopied, OSError) as error:
        told = " ".join(str(error).partition("Debug source:")[0].split())
        print(told, file=sys.stderr, flush=True)
        return False
    return True


class Copies:
    """A folder of dumps, and the bucket that the environment names."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("BACKUPS", "/backups"))
        self.bucket = os.environ.get("BACKUP_BUCKET", "")
        kept = os.environ.get("BACKUP_BUCKET_KEPT") or "30"
        if not kept.isdecimal() or int(kept) < 1:
            sys.exit(f"BACKUP_BUCKET_KEPT={kept} is no number of dumps: write 1 or more.")
        self.kept = int(kept)

    @property
    def named(self) -> bool:
        return bool(self.bucket)

    def here(self) -> dict[str, int]:
        """Return the size of each dump in the folder."""
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if DUMP.fullmatch(path.name)}

    def there(self) -> dict[str, int]:
        """Return the size of each dump in the bucket; what is called otherwise is somebody else's."""
        found = [one for page in obstore.list(self.store()) for one in page]
        return {one["path"]: one["size"] for one in found if DUMP.fullmatch(one["path"])}

    def listed(self) -> list[str]:
        here, there = self.here(), self.there() if self.named else {}
        return [
            f"{name}  {(here | there)[name]:>15,} bytes"
            f"  {' and '.join(where for where, has in (('volume', here), ('bucket', there)) if name in has)}"
            for name in sorted({*here, *there})
        ]

    def copy(self) -> None:
        """Make the bucket hold the newest dumps; raises before it deletes anything if one of them is missing."""
        here, there = self.here(), self.there()
        newest = sorted({*here, *there})[-self.kept :]
        for name in reversed(newest):
            if name not in there:
                self._upload(name, here[name])
        if odd := [name for name in newest if name in here and here[name] != there.get(name, here[name])]:
            raise NotCopied(
                f"{odd[0]} has another size in the bucket than here. One of the two is damaged, so neither is touched: "
                "look at both, and remove the bad one."
            )
        for name in sorted({*there} - {*newest}):
            obstore.delete(self.store(), name)
            print(f"{name} is removed from the bucket: there are newer ones.", flush=True)

    def _upload(self, name: str, size: int) -> None:
        """The store gives a file its name when it has all parts of it, and checks each against its checksum."""
        parts = max(PART_BYTES, -(-size // MOST_PARTS))
        obstore.put(self.store(), name, self.folder / name, chunk_size=parts, max_concurrency=2)
        if (found := obstore.head(self.store(), name)["size"]) != size:
            raise NotCopied(f"{name} has {size} bytes, and the bucket says {found}: remove it there.")
        print(f"{name} is in the bucket.", flush=True)

    def fetch(self, name: str) -> None:
        """Get one, whole or not at all."""
        there = self.there()
        if not there or (name and name not in there):
            raise NotCopied(
                f"{name or 'A dump'} is not in the bucket either. There are: {', '.join(sorted(there))}"
            )
        name = name or max(there)
        for left in self.folder.glob(".esteira-*.fetched"):
            left.unlink()
        fresh = self.folder / f".{name}.fetched"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.writelines(obstore.get(self.store(), name).stream())
            file.flush()
            os.fsync(file.fileno())
        if fresh.stat().st_size != there[name]:
            raise NotCopied(f"{name} was cut off on its way. Try again.")
        fresh.replace(self.folder / name)
        print(f"{name} is fetched from the bucket.", flush=True)

    def store(self) -> S3Store:
        """Open it anew for each use: keys may be changed. Without any, the ways of a machine of AWS are tried."""
        key, secret = given("BACKUP_BUCKET_KEY"), given("BACKUP_BUCKET_SECRET")
        if bool(key) != bool(secret):
            raise NotCopied("BACKUP_BUCKET_KEY and BACKUP_BUCKET_SECRET go together: give both, or none.")
        endpoint = os.environ.get("BACKUP_BUCKET_ENDPOINT") or ""
        settings = {
            "prefix": os.environ.get("BACKUP_BUCKET_PREFIX"),
            "endpoint": endpoint,
            "access_key_id": key,
            "secret_access_key": secret,
        }
        given_ones: dict[str, Any] = {name: value for name, value in settings.items() if value}
        return S3Store(
            self.bucket,
            region=os.environ.get("BACKUP_BUCKET_REGION") or "us-east-1",
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(minutes=10),  # of one part
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(minutes=5)},
            **given_ones,  # it takes no None
        )


def given(name: str) -> str:
    """Return a secret: what the variable says, or the file that NAME_FILE names; empty if neither is there."""
    if value := os.environ.get(name, ""):
        return value
    with suppress(FileNotFoundError):
        return Path(os.environ.get(f"{name}_FILE") or "/nowhere").read_text().strip()
    return ""


def tell(column: str) -> None:
    """Write how it ended where /metrics reads it. A database that is away is no failure of the upload."""
    if not os.environ.get("PGHOST"):
        return
    try:
        with psycopg.connect(password=given("PGPASSWORD"), connect_timeout=30) as connection:
            connection.execute(TOLD.format(column))
    except psycopg.Error as error:
        print(f"That could not be written to esteira_backup: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
