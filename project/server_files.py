"""Copies the servers' files into volumes that they can read, whatever modes the clone has.

Git gives files the modes of whoever clones: under umask 077 nobody else reads them, and PostgreSQL and Redis run as
users of their own. Compose's one-shot may read everything that it mounts, so it copies what is below /files to the
folder of the same name below /handed. Each file is there whole or not at all; one that is gone here goes there too.
Killed half-way, the next start does the rest. Needs no Django and no network.
"""

from __future__ import annotations

from pathlib import Path

GIVEN, COPIES = Path("/files"), Path("/handed")
MODE = 0o444


def copy_server_files() -> None:
    """Make each folder below /handed hold what its namesake below /files does, readable by all."""
    for folder in sorted(GIVEN.iterdir()):
        given = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        _mirror(given, COPIES / folder.name)


def _mirror(given: dict[str, bytes], target: Path) -> None:
    for name, content in given.items():
        file = target / name
        if not file.exists() or file.read_bytes() != content:
            _put(file, content)
            print(f"wrote {file}", flush=True)
    for left in target.iterdir():
        if left.name not in given:
            left.unlink()


def _put(file: Path, content: bytes) -> None:
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.write_bytes(content)
    fresh.chmod(MODE)
    fresh.replace(file)
