"""Mail: one message to a few people, or the same message to each address of a list.

The SMTP server comes from EMAIL_URL, through Django's mail. A mail server has no transactions: if the worker dies after
the server accepted a message and before the job is recorded, the job sends it again, with the same Message-ID, by which
servers and mailboxes detect duplicates. An address that the server refuses permanently (5xx) is not tried again; an
address that it defers (4xx) is tried again, by a follow-up job if other addresses were accepted, so that a full mailbox
gives no other person a second copy. If the server received a whole message and did not answer, it may have accepted it:
the job sends it again a quarter of an hour later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from esteira import Context, FileRef, GiveUp, Retry, job
from jobs.email._addresses import bare, checked_address, split_addresses, without_repeats
from jobs.email._headers import one_line
from jobs.email._letter import Letter
from jobs.email._post import MOST_BREAKS, PERMANENT, UNCLEAR_PAUSE_S, PerhapsTaken, Post
from jobs.email._transaction import Refusal

#: After so many seconds, a list passes its remaining addresses to a follow-up job: the time limit less one message.
LIST_ENOUGH_S = 6000


def _says_something(html: str, info: ValidationInfo) -> str:
    """Refuse a message if both its text and its HTML are blank."""
    if not html.strip() and not info.data.get("text", "-").strip():
        raise ValueError("is empty, and so is text; write one of them.")
    return html


Address = Annotated[str, Field(min_length=3, max_length=320), AfterValidator(checked_address)]
Subject = Annotated[
    str,
    Field(min_length=1, max_length=200, title="Subject", description="One line."),
    AfterValidator(one_line),
]
Text = Annotated[
    str, Field(min_length=1, max_length=50_000, title="Text", description="The message as plain text.")
]
Html = Annotated[
    str,
    Field(
        max_length=50_000, title="HTML", description="The same message as HTML, for programs that show it."
    ),
    AfterValidator(_says_something),
]
ReplyTo = Annotated[
    Address | None, Field(title="Reply to", description="The address for replies, if it is not the sender.")
]
Attachments = Annotated[
    tuple[FileRef, ...],
    Field(max_length=20, title="Attachments", description="Uploaded files, at most 25 MiB together."),
]
FirstJob = Annotated[
    UUID | None,
    Field(
        title="Follow-up of",
        description="Set by follow-up jobs: their mail has the Message-ID of that job.",
    ),
]


# A server may need ten minutes to answer a whole message, and the limit of a command for each address.
@job(retries=8, backoff=5, timeout=1800)
def send(
    ctx: Context,
    to: Annotated[
        list[Address],
        BeforeValidator(split_addresses),
        Field(min_length=1, max_length=50, title="To", description="All recipients see all addresses."),
    ],
    subject: Subject,
    text: Text,
    html: Html = "",
    reply_to: ReplyTo = None,
    attachments: Attachments = (),
    first_job: FirstJob = None,
) -> dict[str, Any] | None:
    """Send an e-mail.

    It sends one message to all addresses in "To". The job succeeds if the mail server accepts the message for at least
    one address; the result lists the refused ones. If the server refuses all addresses, the job fails; if it defers all
    of them, the job is tried again.
    """
    letter = Letter(
        ctx,
        first_job=first_job or ctx.job_id,
        subject=subject,
        text=text,
        html=html,
        reply_to=reply_to,
        attachments=attachments,
    )
    people = without_repeats(to)
    ctx.progress(0, len(people), "Sending")
    with Post() as post:
        refused = post.deliver(letter.addressed(people), _turned(ctx, people))
    said = Said(accepted=[a for a in people if bare(a) not in refused], refused=refused)
    return _conclude(
        ctx,
        said,
        to=people,
        again=lambda later, pause: send.after(seconds=pause).submit(to=later, **letter.params),
    )


@job(retries=8, backoff=5, timeout=7200)
def send_to_list(
    ctx: Context,
    to: Annotated[
        list[Address],
        BeforeValidator(split_addresses),
        Field(
            min_length=1,
            max_length=1000,
            title="Address list",
            description="No recipient sees the other addresses.",
        ),
    ],
    subject: Subject,
    text: Text,
    html: Html = "",
    reply_to: ReplyTo = None,
    attachments: Attachments = (),
    first_job: FirstJob = None,
) -> dict[str, Any] | None:
    """Send an e-mail to a list.

    It sends one message to each address, one after the other; an address that is in the list twice gets one message.
    The result lists the refused addresses. A follow-up job sends the mail to addresses that the server deferred, and to
    those that were left when it became unavailable.
    """
    letter = Letter(
        ctx,
        first_job=first_job or ctx.job_id,
        subject=subject,
        text=text,
        html=html,
        reply_to=reply_to,
        attachments=attachments,
    )
    people = without_repeats(to)
    said = Said()
    until = time.monotonic() + LIST_ENOUGH_S
    with Post() as post:
        for address in ctx.each(_turned(ctx, people), "Sending"):
            try:
                refused = post.deliver(letter.addressed([address], apart=True), [address])
            except PerhapsTaken as trouble:
                ctx.log.warning("%s: %s", address, trouble)
                said.unclear.append(address)
                said.last = trouble
            except (Retry, GiveUp) as trouble:
                if not said.accepted:
                    raise
                ctx.log.warning("%s A follow-up job gets the remaining addresses.", trouble)
                break
            else:
                said.refused.update(refused)
                if not refused:
                    said.accepted.append(address)
            if post.in_vain or (said.accepted and time.monotonic() > until):
                ctx.log.warning("A follow-up job gets the remaining addresses.")
                break
    return _conclude(
        ctx,
        said,
        to=people,
        again=lambda later, pause: send_to_list.after(seconds=pause).submit(to=later, **letter.params),
    )


def _turned(ctx: Context, people: Sequence[str]) -> list[str]:
    """Begin each try at other addresses: an address at which the connection breaks must not always block the others."""
    first = (ctx.try_number - 1) * MOST_BREAKS % len(people)
    return [*people[first:], *people[:first]]


@dataclass
class Said:
    """The accepted addresses, the refused ones (bare), and those whose message the server got without an answer."""

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    last: PerhapsTaken | None = None


def _conclude(
    ctx: Context, said: Said, *, to: Sequence[str], again: Callable[[list[str], float], Any]
) -> dict[str, Any] | None:
    """Turn the server's answers into the job's result; a follow-up job is stored in the same transaction."""
    refused = {
        address: str(refusal) for address, refusal in said.refused.items() if refusal.code >= PERMANENT
    }
    done = set(said.accepted)
    later = [a for a in to if a not in done and bare(a) not in refused]
    if not said.accepted:
        if said.last:
            raise said.last
        raise _nobody(said.refused, put_off=bool(later))
    for address, answer in refused.items():
        ctx.log.warning("%s was refused: %s", address, answer)
    result: dict[str, Any] = {"accepted": len(said.accepted), "refused": refused}
    if not later:
        return result
    # Addresses that were not tried go first.
    later.sort(key=lambda a: bare(a) in said.refused or a in said.unclear)
    pause = UNCLEAR_PAUSE_S if said.unclear else 60
    with ctx.completing() as completion:
        result["follow_up"] = {"addresses": len(later), "job": str(again(later, pause).id)}
        completion.result = result
    return None


def _nobody(refused: dict[str, Refusal], *, put_off: bool) -> Exception:
    answers = "; ".join(f"{address}: {refusal}" for address, refusal in list(refused.items())[:5])
    if put_off:
        return Retry(f"The mail server deferred the message for all addresses ({answers}).")
    return GiveUp(f"The mail server refused all addresses ({answers}). Correct them, then submit a new job.")
