"""Execute a part of the local stack: as which user, in a session of its own, and ended together with its parent.

Linux sends a child a signal when its parent dies (PR_SET_PDEATHSIG); on other systems the next start removes leftover
processes. The signal is bound to the *thread* that forked, so it is set on the main thread only.

PostgreSQL refuses to run as root. Root therefore starts it as another user, and grants it the one right that the user
lacks: to enter folders that are closed to it (a clone under /root). The right is an ambient capability, which survives
exec, and it is granted only if a folder on the path is closed.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER = 1, 28, 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, SECBIT_NO_SETUID_FIXUP = 47, 2, 1 << 2
CAP_DAC_OVERRIDE = 1  # Docker's default capabilities have this one, but not CAP_DAC_READ_SEARCH
CAPABILITY_VERSION_3 = 0x20080522
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class EmbeddedError(RuntimeError):
    """A part of the local stack cannot be prepared or does not start; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class User:
    """The user of a part; `passes_closed_folders` grants it CAP_DAC_OVERRIDE."""

    uid: int
    gid: int
    passes_closed_folders: bool = False


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One command, ready to be executed."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path = Path("/")
    user: User | None = None
    death_signal: signal.Signals = signal.SIGKILL

    def popen(self, stdout: int | IO[bytes], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Execute the command; standard error goes to the same place as standard output."""
        tied = LIBC is not None and threading.current_thread() is threading.main_thread()
        parent = os.getpid()

        def in_the_child() -> None:
            if self.user:
                _become(self.user)
            if tied:  # after the change of user, which would clear the signal
                _prctl(PR_SET_PDEATHSIG, self.death_signal)
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            return subprocess.Popen(
                self.argv,
                env=dict(self.env),
                cwd=self.cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must reach the supervisor only
                preexec_fn=in_the_child,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(self._refusal(error)) from error

    def _refusal(self, error: Exception) -> str:
        if self.user is None:
            return f"{self.argv[0]} cannot be executed: {error}"
        return (
            f"{self.argv[0]} refuses to run as root, and this root may not start it as another user "
            f"({error}): start the stack as an ordinary user, or in a folder that the other user may enter"
        )


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent dies (Linux), so that all of them can be ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def unprivileged(*paths: Path) -> User | None:
    """Return the user for a server that refuses root, with access to all paths; None if this process is not root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    on_the_way = {folder for path in paths for folder in (path, *path.parents)}
    closed = not all(_may_enter(folder, nobody.pw_uid, nobody.pw_gid) for folder in on_the_way)
    return User(uid=nobody.pw_uid, gid=nobody.pw_gid, passes_closed_folders=closed and LIBC is not None)


def _may_enter(path: Path, uid: int, gid: int) -> bool:
    info = path.stat()
    wanted = stat.S_IXUSR if info.st_uid == uid else stat.S_IXGRP if info.st_gid == gid else stat.S_IXOTH
    return bool(info.st_mode & wanted)


def _become(user: User) -> None:
    os.setgroups([])
    os.setgid(user.gid)
    if user.passes_closed_folders:
        # setuid() then keeps capabilities, and access(2), which initdb uses, respects them.
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setuid(user.uid)
    if user.passes_closed_folders:
        _keep_only(CAP_DAC_OVERRIDE)


def _keep_only(capability: int) -> None:
    """Make one capability permitted, inheritable and ambient: exec keeps an ambient one for users other than root."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    effective = permitted = inheritable = 1 << capability
    data = (ctypes.c_uint32 * 6)(effective, permitted, inheritable, 0, 0, 0)
    if LIBC is None or LIBC.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(int(argument)) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if LIBC is not None and LIBC.prctl(option, *padded) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
