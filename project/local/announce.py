"""The one block that a newcomer reads when everything answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from project.local.home import Home
from project.local.options import BASE_DIR, Options
from project.local.parts import DEV_USER


def block(options: Options, home: Home, password: str, seconds: float) -> str:
    """Say where things are, how to sign in, what to type next, how to stop."""
    manage = f"{_shown(Path(sys.executable))} manage.py"
    mail = options.email_url or f"{_shown(home.mail)}/ (caught here, nothing leaves this machine)"
    rows = [
        ("jobs", f"{options.web_url}/"),
        ("admin", f"{options.web_url}/admin/"),
        ("Flower", f"{options.flower_url}/"),
        ("sign in", f"{DEV_USER} · {password}"),
        ("mail", mail),
        ("addresses", f"{_shown(home.root / 'env')} (manage.py reads it while this runs)"),
        ("", ""),
        ("try", f"{manage} jobs demo"),
        ("change", f"save a file of {' or '.join(options.job_packages)}: worker, beat and web reload it"),
        ("break", f"kill -9 $(cat {_shown(home.run)}/worker.pid): it comes back, and so do its jobs"),
        (
            "stop",
            f"Ctrl-C, or kill {os.getpid()}: running jobs have {options.drain_seconds:g} s; data is kept",
        ),
    ]
    head = f"  Esteira is up ({seconds:.1f} s)."
    lines = [f"    {name:<10} {value}".rstrip() for name, value in rows]
    return "\n".join(["", head, "", *lines, ""])


def _shown(path: Path) -> str:
    """Shorten a path inside the project; it is meant to be typed there."""
    return str(path.relative_to(BASE_DIR)) if path.is_relative_to(BASE_DIR) else str(path)
