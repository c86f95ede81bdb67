"""The output of all parts in one stream, with a coloured, aligned prefix for each part.

There is no colour if NO_COLOR is set or standard output is not a terminal. If the reader closes the pipe
(`make run | head`), the stack stops, which is no error.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable

COLOURS = {
    "esteira": "1",
    "postgres": "34",
    "redis": "31",
    "mail": "36",
    "prepare": "33",
    "web": "32",
    "worker": "35",
    "beat": "33",
    "flower": "36",
}
WIDTH = max(map(len, COLOURS))
LONGEST_LINE = 64 * 1024


class Output:
    """The stream for people."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        """Print a message of the supervisor itself."""
        self.line("esteira", text)

    def line(self, name: str, text: str) -> None:
        prefix = f"{name:<{WIDTH}} │"
        if self._coloured:
            prefix = f"\x1b[{COLOURS.get(name, '0')}m{prefix}\x1b[0m"
        self.plain(f"{prefix} {text}")

    def plain(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process's life
            self._on_closed()


class Reader:
    """Copies one process's output to the stream, line by line, and remembers the last lines."""

    def __init__(self, name: str, descriptor: int, output: Output, muted: str | None = None) -> None:
        self.tail: deque[str] = deque(maxlen=40)
        self._name, self._descriptor, self._output = name, descriptor, output
        self._muted = muted
        self._rest = b""
        self._ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    async def finish(self, patience: float = 1) -> None:
        """Read to the end; if another process still holds the other end of the pipe, wait only for a short time."""
        try:
            await asyncio.wait_for(self._ended.wait(), patience)
        except TimeoutError:
            self._end()

    def _read(self) -> None:
        data = os.read(self._descriptor, LONGEST_LINE)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) >= LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.tail.append(text)
            if text and (self._muted is None or self._muted not in text):
                self._output.line(self._name, text)
        if not data:
            self._end()

    def _end(self) -> None:
        if not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended.set()
