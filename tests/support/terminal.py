"""A pseudo-terminal: a program that runs in it sees a terminal, and gets its questions answered."""

from __future__ import annotations

import os
import select
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

SIZE = (40, 160)


class Terminal:
    """A window in which somebody has typed lines for a shell."""

    def __init__(self, lines: str, folder: Path, env: Mapping[str, str]) -> None:
        self._window, inside = os.openpty()
        termios.tcsetwinsize(inside, SIZE)
        self._process = subprocess.Popen(
            ["bash", "-euc", lines], cwd=folder, env=env, stdin=inside, stdout=inside, stderr=inside
        )
        os.close(inside)
        self._said = b""

    def answer(self, prompt: str, reply: str, *, timeout: float = 120) -> None:
        """Type a line as soon as the prompt is the last thing there is."""
        deadline = time.monotonic() + timeout
        while not self._said.rstrip(b" ").endswith(prompt.encode()):
            assert self._read(deadline), f"{prompt!r} was not asked: {self.said}"
        os.write(self._window, f"{reply}\n".encode())
        self._said += b"\n"

    def end(self, *, timeout: float = 120) -> str:
        """Wait for the end, which is a good one; return all that was shown."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        assert self._process.wait(10) == 0, self.said
        os.close(self._window)
        return self.said

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        """Read some more; return False at the end, or when the time is up."""
        if not select.select([self._window], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            more = os.read(self._window, 4096)
        except OSError:  # as Linux says that nobody has it open any more
            return False
        self._said += more
        return bool(more)
