"""Detect saved job files: all Python files below the packages in JOB_PACKAGES, wherever they are installed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import PythonFilter, awatch


async def saved_files(packages: list[str]) -> AsyncIterator[list[Path]]:
    """Yield the changed Python files, without end; several saves in a short time are one change."""
    folders = {folder for name in packages for folder in _folders(name)}
    for polling in (False, True) if folders else ():
        with contextlib.suppress(OSError):  # the limit of this user's file watches is reached: poll instead
            async for changes in awatch(
                *folders, watch_filter=PythonFilter(), debounce=400, force_polling=polling
            ):
                yield sorted({Path(path) for _, path in changes})
    await asyncio.Event().wait()


def _folders(package: str) -> list[Path]:
    """Return the folders of a package; none if it cannot be found (the loading of the job types reports that)."""
    with contextlib.suppress(ImportError, ValueError, SyntaxError):
        spec = importlib.util.find_spec(package)
        return [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or []]
    return []
