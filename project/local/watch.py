"""Notice saved job files: all that is importable below the packages of JOB_PACKAGES, wherever they are."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import PythonFilter, awatch


async def saved_files(packages: list[str]) -> AsyncIterator[list[Path]]:
    """Yield the Python files that changed, for ever; a burst of saves comes as one."""
    folders = {folder for name in packages for folder in _folders(name)}
    for polling in (False, True) if folders else ():
        with contextlib.suppress(OSError):  # this user's file watches are used up: look every now and then
            async for changes in awatch(
                *folders, watch_filter=PythonFilter(), debounce=400, force_polling=polling
            ):
                yield sorted({Path(path) for _, path in changes})
    await asyncio.Event().wait()


def _folders(package: str) -> list[Path]:
    """Return where a package is; nothing if it cannot be found (loading the job types says so)."""
    with contextlib.suppress(ImportError, ValueError, SyntaxError):
        spec = importlib.util.find_spec(package)
        return [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or []]
    return []
