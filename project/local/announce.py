"""The block of text that is printed when the stack has started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from project.local.home import Home
from project.local.options import BASE_DIR, Options
from project.local.parts import DEV_USER


def block(options: Options, home: Home, password: str, seconds: float) -> str:
    """Return the text with the addresses, the login, the next commands, and the way to stop."""
    manage = f"{_shown(Path(sys.executable))} manage.py"
    mail = options.email_url or f"{_shown(home.mail)}/ (a local mail catcher: no mail leaves this machine)"
    rows = [
        ("jobs", f"{options.web_url}/"),
        ("admin", f"{options.web_url}/admin/"),
        ("Flower", f"{options.flower_url}/"),
        ("sign in", f"{DEV_USER} · {password}"),
        ("mail", mail),
        ("addresses", f"{_shown(home.root / 'env')} (manage.py reads this file while the stack runs)"),
        ("", ""),
        ("try", f"{manage} jobs demo"),
        ("change", f"save a file of {' or '.join(options.job_packages)}: worker, beat and web reload"),
        (
            "break",
            f"kill -9 $(cat {_shown(home.run)}/worker.pid): the worker starts again, and its jobs run again",
        ),
        (
            "stop",
            f"Ctrl-C, or kill {os.getpid()}: running jobs have {options.drain_seconds:g} s; data is kept",
        ),
    ]
    head = f"  Esteira is up ({seconds:.1f} s)."
    lines = [f"    {name:<10} {value}".rstrip() for name, value in rows]
    return "\n".join(["", head, "", *lines, ""])


def _shown(path: Path) -> str:
    """Return a path inside the project as a relative one, for a terminal in that folder."""
    return str(path.relative_to(BASE_DIR)) if path.is_relative_to(BASE_DIR) else str(path)
