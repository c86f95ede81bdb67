"""The inputs of the demonstration: the sample photograph, and the mailbox of this machine."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings

from esteira.files import save_upload
from esteira.job_types.registry import registry
from esteira_web.cli.errors import Unmet

LOCAL = ("localhost", "127.0.0.1", "::1")
NEWEST_MAILS = 200
HEAD_BYTES = 4096


def refuse_unknown(types: Iterable[str]) -> None:
    """Raise Unmet unless all these job types are registered."""
    missing = sorted(set(types) - set(registry.names()))
    if missing:
        raise Unmet("unmet.job-types", missing=missing)


def photo(job_type: str) -> Path:
    """Return the sample file in the package of a job type."""
    refuse_unknown([job_type])
    path = Path(inspect.getfile(registry.get(job_type).fn)).parent / "samples" / "coffee.jpg"
    if not path.is_file():
        raise Unmet("unmet.sample", path=path)
    return path


def upload(path: Path) -> str:
    return str(save_upload(path.name, "image/jpeg", [path.read_bytes()]).pk)


def where_mail_lies(job_id: str) -> str:
    """Return where the mail of a job is, found by its Message-ID; raises Unmet if there is no such mail."""
    box = Path(settings.DATA_DIR) / "mail"
    if settings.EMAIL_HOST not in LOCAL or not box.is_dir():
        return f"sent to {settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    mails = sorted(
        itertools.chain((box / "new").glob("*"), (box / "cur").glob("*")),
        key=lambda mail: mail.stat().st_mtime,
        reverse=True,
    )
    for mail in mails[:NEWEST_MAILS]:
        with mail.open("rb") as stream:
            if job_id.encode() in stream.read(HEAD_BYTES):
                return near(mail)
    raise Unmet("unmet.mail", path=near(box))


def near(path: Path) -> str:
    """Return a path relative to the current folder, if it is inside that folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
