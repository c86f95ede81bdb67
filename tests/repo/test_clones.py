"""A clone has the same files everywhere, whatever git and the machine do with line ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkout import cloned, committed

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not here")


def test_a_clone_on_windows_has_no_carriage_return_and_whole_pictures(tmp_path: Path) -> None:
    """Else a shell in a container reads it as a part of each command, and Redis as a part of each option."""
    repository = committed(tmp_path / "repository")

    clone = cloned(repository, tmp_path / "clone", "core.autocrlf=true")

    found = [path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts]
    told = {path.relative_to(clone): path.read_bytes() for path in found}
    assert Path("compose/redis/start") in told
    assert not [
        path for path, content in told.items() if b"\r\n" in content and path.suffix not in (".jpg", ".png")
    ]
    assert not [path for path, content in told.items() if content != (repository / path).read_bytes()]
