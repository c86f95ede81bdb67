"""What servers read is copied whole, readable by all, and follows its source."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from project import server_files


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder that only its owner reads, and the volume of its server."""
    given, copies = tmp_path / "files" / "redis", tmp_path / "handed" / "redis"
    given.mkdir(parents=True, mode=0o700)
    copies.mkdir(parents=True)
    monkeypatch.setattr(server_files, "GIVEN", given.parent)
    monkeypatch.setattr(server_files, "COPIES", copies.parent)
    write(given, start="exec redis-server", healthy="redis-cli ping")
    return given, copies


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)


def read(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_all_may_read_what_only_its_owner_could_and_nobody_writes_it(folders: tuple[Path, Path]) -> None:
    given, copies = folders

    server_files.copy_server_files()

    assert read(copies) == read(given)
    assert {stat.S_IMODE(file.stat().st_mode) for file in copies.iterdir()} == {0o444}


def test_the_next_start_takes_over_what_changed_and_removes_what_is_gone(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given, copies = folders
    server_files.copy_server_files()
    write(given, start="exec redis-server --port 6380")
    (given / "healthy").unlink()
    (copies / ".start.new").write_text("half of")  # somebody was killed here
    capsys.readouterr()

    server_files.copy_server_files()
    server_files.copy_server_files()

    assert read(copies) == {"start": "exec redis-server --port 6380"}
    assert capsys.readouterr().out == f"wrote {copies / 'start'}\n"
