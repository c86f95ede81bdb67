"""A disk of some megabytes under a PostgreSQL, that somebody else's file fills, and that can be enlarged."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from project.local.embedded import Postgres
from tests.support.compose_under_load import as_root


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    place: Path

    def free(self) -> int:
        return shutil.disk_usage(self.place).free

    def fill(self) -> None:
        """Take all that is free; PostgreSQL may take some of it first."""
        with suppress(OSError), (self.place / "ballast").open("ab", buffering=0) as file:
            while free := self.free():
                file.write(bytes(min(free, 2**20)))

    def enlarge(self, megabytes: int) -> None:
        as_root("mount", "-o", f"remount,size={megabytes}m", str(self.place))


class OnSmallDisk(Postgres):
    """Its data is on the disk; what it says is kept elsewhere, as a container's runtime does."""

    def __init__(self, disk: SmallDisk) -> None:
        super().__init__(disk.place / "postgres", options={"max_wal_size": "48MB", "min_wal_size": "32MB"})
        self.said = disk.place.with_name("postgres.log")

    @property
    def log(self) -> Path:
        return self.said


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Mount one in memory; where nobody may mount, the test is left out, but in continuous integration it fails."""
    home = Path(tempfile.mkdtemp(prefix="esteira-disk-"))
    home.chmod(0o711)
    disk = SmallDisk(place=home / "disk")
    disk.place.mkdir()
    options = f"size={megabytes}m,mode=0755,uid={os.getuid()},gid={os.getgid()}"
    try:
        as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk.place))
    except (AssertionError, OSError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no disk of its own can be mounted here: {error}")
    try:
        yield disk
    finally:
        as_root("umount", "--lazy", str(disk.place))
        shutil.rmtree(home)
