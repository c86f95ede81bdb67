"""`jobs files` and `jobs delete-files ID…`: list and delete the uploads of all accounts."""

from __future__ import annotations

import argparse
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model

from esteira.errors import NotFound
from esteira.files.uploads import delete_upload, uploads
from esteira.models import ClockTimestamp, File
from esteira_web.cli import display
from esteira_web.cli.errors import OK
from esteira_web.cli.list_jobs import ACCOUNT, count, given
from esteira_web.cli.out import Out
from esteira_web.cli.retry_cancel import each, retry_arguments
from esteira_web.read import find, words
from esteira_web.read.as_json import upload_body
from esteira_web.read.durations import ago
from esteira_web.read.listing import cut

HELP = "list uploads, the newest first"
DELETE_HELP = "delete uploads, unless a schedule or a job that has not ended refers to them"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="NAME", help="only uploads of this account")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="show at most N (default: 20)")


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    retry_arguments(parser)


def run(out: Out, options: dict[str, Any]) -> int:
    user = given("user", ACCOUNT, options)
    wanted = uploads(_account(user) if user else None)
    found = cut(wanted.annotate(db_now=ClockTimestamp()), limit=options["limit"])
    if out.as_json:
        for file in found.items:
            out.data(upload_body(file))
    elif found.items:
        _table(out, found.items)
        if found.next:
            out.say(f"There are more; --limit {options['limit'] * 10} shows them.", "dim")
    else:
        out.say("No uploads.")
    return OK


def run_delete(out: Out, options: dict[str, Any]) -> int:
    def delete(file_id: UUID) -> str:
        delete_upload(file_id, None)
        return "deleted"

    return each(out, options["ids"], delete, {"deleted": "deleted"}, find.upload_id)


def _account(name: str) -> str:
    users = get_user_model()
    user = users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()
    if user is None:
        raise NotFound("user", name)
    return f"user:{user.pk}"


def _table(out: Out, files: list[File]) -> None:
    names = _names(files)
    table = display.grid("id", "name", "size", "of", "uploaded")
    for file in files:
        now = file.db_now  # type: ignore[attr-defined]
        of = names.get(file.account, file.account)
        table.add_row(
            display.short_id(file.pk), file.name, words.size(file.size), of, ago(file.created_at, now)
        )
    out.show(table)


def _names(files: list[File]) -> dict[str, str]:
    keys = {file.account.removeprefix("user:") for file in files if file.account.startswith("user:")}
    users = get_user_model()._default_manager.filter(pk__in=keys)
    return {f"user:{user.pk}": user.get_username() for user in users}
