"""Copy backups to a bucket of an S3-compatible store, away from the machine that made them.

Each dump that is in the folder and not in the bucket is uploaded, newest first; then the oldest dumps beyond
BACKUP_BUCKET_KEPT are deleted from the bucket. A dump gets its name in the bucket only when it is complete, and an
existing dump is never overwritten. Nothing is deleted after a failed upload, and the newest dump is never deleted. If
the process is killed, the next run does the rest. This module needs no Django; the outcome is written to the table
esteira_backup if the database is reachable.

`once` gives up after some tries (Kubernetes), `keep` never gives up (compose); `list` shows the dumps in both places;
`fetch` downloads a dump that is not in the folder, by its name, or the newest if the folder has none.
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
PART_BYTES, MOST_PARTS = 8 * 1024**2, 9_000  # a store accepts at most 10,000 parts of a file
#: The pauses between the tries of one run, and the longest pause of `keep`; the client also retries each request.
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
    """The bucket is not as it should be; the message explains what to do."""


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
            sys.exit("Arguments: once, keep, list, or fetch with or without the name of a dump.")


def once(copies: Copies) -> None:
    """Copy, with several tries; exit with 1 if all of them fail."""
    if not copies.named:
        print("BACKUP_BUCKET is not set: the dump is in its volume only.")
        return
    for pause in (*PAUSES_S, None):
        if attempt(copies.copy):
            tell("succeeded_at")
            return
        tell("failed_at")
        if pause is not None:
            time.sleep(pause)
    sys.exit(
        "The upload failed. Nothing in the bucket was changed, and the next run uploads the missing dumps."
    )


def keep(copies: Copies) -> None:
    """Copy whenever the folder has changed, and retry after a failure without limit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if not copies.named:
        sys.exit("Set BACKUP_BUCKET to the name of the bucket.")
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
                print(f"The next try is in {pause:g} s.", file=sys.stderr, flush=True)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        time.sleep(LOOK_S)


def fetch(copies: Copies, name: str) -> None:
    """Download a dump that the folder lacks; without a bucket do nothing, because the restore itself will fail."""
    here = copies.here()
    if name in here or (here and not name):
        print(f"{name or max(here)} is in the folder.")
    elif not copies.named:
        print(f"{name or 'A dump'} is not in the folder, and BACKUP_BUCKET is not set.")
    elif not attempt(lambda: copies.fetch(name)):
        sys.exit(1)


def attempt(action: Callable[[], None]) -> bool:
    """Run the action and return whether it succeeded; print the error on one line if it failed."""
    try:
        action()
    except (BaseError, NotCopied, OSError) as error:
        told = " ".join(str(error).partition("Debug source:")[0].split())
        print(told, file=sys.stderr, flush=True)
        return False
    return True


class Copies:
    """A folder of dumps, and the bucket from the environment."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("BACKUPS", "/backups"))
        self.bucket = os.environ.get("BACKUP_BUCKET", "")
        kept = os.environ.get("BACKUP_BUCKET_KEPT") or "30"
        if not kept.isdecimal() or int(kept) < 1:
            sys.exit(f"BACKUP_BUCKET_KEPT={kept} is not a number of dumps: give 1 or more.")
        self.kept = int(kept)

    @property
    def named(self) -> bool:
        return bool(self.bucket)

    def here(self) -> dict[str, int]:
        """Return the size of each dump in the folder."""
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if DUMP.fullmatch(path.name)}

    def there(self) -> dict[str, int]:
        """Return the size of each dump in the bucket; files with other names are ignored."""
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
        """Upload the newest dumps, then delete older ones; raises before it deletes if one is missing or differs."""
        here, there = self.here(), self.there()
        newest = sorted({*here, *there})[-self.kept :]
        for name in reversed(newest):
            if name not in there:
                self._upload(name, here[name])
        if odd := [name for name in newest if name in here and here[name] != there.get(name, here[name])]:
            raise NotCopied(
                f"{odd[0]} has another size in the bucket than here. One of the two is damaged, so neither was "
                "changed: check both, and remove the damaged one."
            )
        for name in sorted({*there} - {*newest}):
            obstore.delete(self.store(), name)
            print(f"{name} was removed from the bucket: there are enough newer dumps.", flush=True)

    def _upload(self, name: str, size: int) -> None:
        """Upload a dump. The store shows the file when it has all parts, and verifies the checksum of each part."""
        parts = max(PART_BYTES, -(-size // MOST_PARTS))
        obstore.put(self.store(), name, self.folder / name, chunk_size=parts, max_concurrency=2)
        if (found := obstore.head(self.store(), name)["size"]) != size:
            raise NotCopied(f"{name} has {size} bytes, but {found} in the bucket: remove it there.")
        print(f"{name} is in the bucket.", flush=True)

    def fetch(self, name: str) -> None:
        """Download one dump completely or not at all."""
        there = self.there()
        if not there or (name and name not in there):
            raise NotCopied(
                f"{name or 'A dump'} is not in the bucket either. The bucket has: {', '.join(sorted(there))}"
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
            raise NotCopied(f"The download of {name} was incomplete. Try again.")
        fresh.replace(self.folder / name)
        print(f"{name} was downloaded from the bucket.", flush=True)

    def store(self) -> S3Store:
        """Open the store for each use, because keys may change. Without keys, the client tries those of an AWS host."""
        key, secret = given("BACKUP_BUCKET_KEY"), given("BACKUP_BUCKET_SECRET")
        if bool(key) != bool(secret):
            raise NotCopied(
                "BACKUP_BUCKET_KEY and BACKUP_BUCKET_SECRET belong together: set both, or neither."
            )
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
            **given_ones,  # the client does not accept None
        )


def given(name: str) -> str:
    """Return a secret from the variable, or from the file in NAME_FILE; "" if neither is set."""
    if value := os.environ.get(name, ""):
        return value
    with suppress(FileNotFoundError):
        return Path(os.environ.get(f"{name}_FILE") or "/nowhere").read_text().strip()
    return ""


def tell(column: str) -> None:
    """Write the outcome to the table that /metrics reads. The upload does not fail if the database is unavailable."""
    if not os.environ.get("PGHOST"):
        return
    try:
        with psycopg.connect(password=given("PGPASSWORD"), connect_timeout=30) as connection:
            connection.execute(TOLD.format(column))
    except psycopg.Error as error:
        print(f"The outcome could not be written to esteira_backup: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
