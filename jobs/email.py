"""Mail: one message to a few people, or the same message to each address of a list.

SMTP comes from EMAIL_URL, through Django's mail. A mail server has no transactions: a job whose worker died between the
server's "accepted" and our record sends again, with the same Message-ID, by which servers and mailboxes drop repeats.
What the server refuses for good (5xx) is not tried again; what it puts off (4xx) is, alone, by a follow-up job if
others were accepted, so that nobody gets a second copy because of somebody else's full mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parseaddr
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from esteira import Context, FileRef, GiveUp, Retry, job
from jobs._letter import Letter, checked_address, one_line, without_repeats
from jobs._lists import split_list
from jobs._post import PERMANENT, Post, Refusal

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
]
ReplyTo = Annotated[
    Address | None, Field(title="Reply to", description="Where answers go, if not to the sender.")
]
Attachments = Annotated[
    tuple[FileRef, ...],
    Field(max_length=20, title="Attachments", description="Uploaded files, at most 25 MiB together."),
]


@job(retries=8, backoff=5, timeout=300)
def send(
    ctx: Context,
    to: Annotated[
        list[Address],
        BeforeValidator(split_list),
        Field(min_length=1, max_length=50, title="To", description="All of them see each other's address."),
    ],
    subject: Subject,
    text: Text,
    html: Html = "",
    reply_to: ReplyTo = None,
    attachments: Attachments = (),
) -> dict[str, Any] | None:
    """Send an e-mail.

    One message to everybody in "To". It has succeeded when the mail server took it for at least one of them; the result
    names whom it refused. If it refused all of them the job fails, and if it put all of them off the job tries again.
    """
    letter = Letter(ctx, subject=subject, text=text, html=html, reply_to=reply_to, attachments=attachments)
    people = without_repeats(to)
    ctx.progress(0, len(people), "Sending")
    with Post() as post:
        refused = post.deliver(letter.addressed(people))
    said = Said(accepted=[a for a in people if parseaddr(a)[1] not in refused], refused=refused)
    again = send.after(minutes=1)
    return _conclude(ctx, said, to=people, again=lambda later: again.submit(to=later, **letter.params))


@job(retries=8, backoff=5, timeout=7200)
def send_to_list(
    ctx: Context,
    to: Annotated[
        list[Address],
        BeforeValidator(split_list),
        Field(
            min_length=1,
            max_length=1000,
            title="Address list",
            description="Nobody sees the other addresses.",
        ),
    ],
    subject: Subject,
    text: Text,
    html: Html = "",
    reply_to: ReplyTo = None,
    attachments: Attachments = (),
) -> dict[str, Any] | None:
    """Send an e-mail to a list.

    One message to each address, one after the other; an address that stands there twice gets one. The result names who
    was refused. Whoever the server puts off, or was not reached when it went away, gets the mail from a follow-up job.
    """
    letter = Letter(ctx, subject=subject, text=text, html=html, reply_to=reply_to, attachments=attachments)
    people = without_repeats(to)
    said = Said(accepted=[], refused={})
    with Post() as post:
        for address in ctx.each(people, "Sending"):
            try:
                refused = post.deliver(letter.addressed([address], apart=True))
            except (Retry, GiveUp) as trouble:
                if not said.accepted:
                    raise
                ctx.log.warning("%s The addresses that are left go to a follow-up job.", trouble)
                break
            said.refused.update(refused)
            if not refused:
                said.accepted.append(address)
    again = send_to_list.after(minutes=1)
    return _conclude(ctx, said, to=people, again=lambda later: again.submit(to=later, **letter.params))


@dataclass
class Said:
    """Whom the server accepted (as in the parameters) and whom not (the bare address)."""

    accepted: list[str]
    refused: dict[str, Refusal]


def _conclude(
    ctx: Context, said: Said, *, to: Sequence[str], again: Callable[[list[str]], Any]
) -> dict[str, Any] | None:
    """Turn the server's answers into the job's result; a follow-up job is stored together with it, or not at all."""
    refused = {
        address: str(refusal) for address, refusal in said.refused.items() if refusal.code >= PERMANENT
    }
    done = set(said.accepted)
    later = [a for a in to if a not in done and parseaddr(a)[1] not in refused]
    if not said.accepted:
        answers = "; ".join(f"{address}: {refusal}" for address, refusal in list(said.refused.items())[:5])
        if later:
            raise Retry(f"The mail server put the message off for everybody ({answers}).")
        raise GiveUp(
            f"The mail server refused every address ({answers}). Correct them, then submit a new job."
        )
    for address, answer in refused.items():
        ctx.log.warning("%s was refused: %s", address, answer)
    result: dict[str, Any] = {"accepted": len(said.accepted), "refused": refused}
    if not later:
        return result
    with ctx.completing() as completion:
        result["follow_up"] = {"addresses": len(later), "job": str(again(later).id)}
        completion.result = result
    return None
