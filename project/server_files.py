"""Copy the servers' files into volumes that the servers can read, independent of the file modes of the clone.

The umask of the person who clones decides the modes of the files: with umask 077 no other user can read them, and
PostgreSQL and Redis run as users of their own. Compose's one-shot container may read everything that it mounts, so it
copies each folder below /files to the folder of the same name below /handed. Each file is copied completely or not at
all; a removed file is removed from the copy too. If the process is killed, the next start does the rest. This module
needs no Django and no network.
"""

from __future__ import annotations

from pathlib import Path

GIVEN, COPIES = Path("/files"), Path("/handed")
MODE = 0o444


def copy_server_files() -> None:
    """Copy each folder below /files to the folder of the same name below /handed, readable by all users."""
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
