"""The e-mail jobs against a real SMTP server that refuses, puts off, hangs up and comes back."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiosmtpd.controller import Controller

import jobs.email
from esteira import GiveUp, LocalContext, Retry
from esteira.files import open_file, save_upload
from esteira.job_types.context import MemoryHost
from esteira.models import Job
from jobs.email import _transaction, send, send_to_list
from jobs.email._post import MOST_BREAKS
from project.local.embedded import free_port

LETTER = {"subject": "Hello", "text": "Good morning."}


@dataclass
class Manners:
    """How the server treats each recipient; what is not said is accepted."""

    answers: dict[str, str] = field(default_factory=dict)
    data_answer: str = "250 OK"
    sender_answer: str = "250 OK"
    hang_up_after: int | None = None
    hangs_at: set[str] = field(default_factory=set)
    drops_at: set[str] = field(default_factory=set)
    drops_after_data_for: set[str] = field(default_factory=set)
    answers_in_s: float = 0
    raw: list[bytes] = field(default_factory=list)
    accepted: list[tuple[list[str], email.message.EmailMessage]] = field(default_factory=list)
    sessions: Counter = field(default_factory=Counter)

    async def handle_MAIL(self, server, session, envelope, address, mail_options):  # noqa: N802
        self.sessions[session.peer] += 1
        if self.hang_up_after is not None and self.sessions[session.peer] > self.hang_up_after:
            return "421 too many messages on this connection"
        envelope.mail_from = address
        return self.sender_answer

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):  # noqa: N802
        if address in self.hangs_at:
            await asyncio.Event().wait()
        if address in self.drops_at:
            server.transport.abort()
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("25"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if self.data_answer.startswith("25"):
            parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
            self.accepted.append((list(envelope.rcpt_tos), parsed))
            self.raw.append(envelope.content)
        if self.drops_after_data_for & set(envelope.rcpt_tos):
            server.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.answers_in_s):
                await asyncio.Event().wait()  # a virus scanner is at work
        return self.data_answer

    @property
    def reached(self) -> list[str]:
        return [who for recipients, _ in self.accepted for who in recipients]


class ServerAwayAfter(MemoryHost):
    """Stops the mail server at the check before a message, and closes the connections to it."""

    def __init__(self, messages, server):
        super().__init__()
        self.left, self.server = messages + 1, server

    def check(self):
        self.left -= 1
        if self.left == 0:
            self.server.stop()
        super().check()


class StoredUploads(MemoryHost):
    """Opens uploads where they are stored."""

    def open(self, ref):
        return open_file(ref)


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
def server(manners, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.DEFAULT_FROM_EMAIL = "jobs@example.org"
    settings.EMAIL_TIMEOUT = 10
    controller = Controller(manners, hostname="127.0.0.1", port=settings.EMAIL_PORT)
    controller.start()
    yield controller
    if controller.server is not None:
        controller.stop()


def test_a_message_reaches_everybody_over_smtp(server, manners):
    ctx = LocalContext()

    result = send.run_with(ctx, to=["Ana <ana@example.org>", "bo@example.org"], **LETTER)

    ((recipients, message),) = manners.accepted
    assert result == {"accepted": 2, "refused": {}}
    assert recipients == ["ana@example.org", "bo@example.org"]
    assert message["Message-ID"] == f"<{ctx.job_id}@example.org>"
    assert message.get_content().strip() == "Good morning."


def test_an_address_refused_for_good_gives_up_with_the_servers_words(server, manners):
    manners.answers["ana@example.org"] = "550 5.1.1 no such mailbox"

    with pytest.raises(GiveUp, match=r"ana@example.org: 550 5\.1\.1 no such mailbox"):
        send.run(to=["Ana <ana@example.org>"], **LETTER)


def test_an_address_put_off_is_tried_again(server, manners):
    manners.answers["ana@example.org"] = "450 4.2.0 greylisted"

    with pytest.raises(Retry, match=r"ana@example.org: 450 4\.2\.0 greylisted"):
        send.run(to=["ana@example.org"], **LETTER)


def test_one_refused_address_does_not_keep_the_others_from_the_mail(server, manners, caplog):
    manners.answers["bo@example.org"] = "550 no such mailbox"

    with caplog.at_level(logging.WARNING, logger="esteira.local"):
        result = send.run(to=["ana@example.org", "Bo <bo@example.org>"], **LETTER)

    assert result == {"accepted": 1, "refused": {"bo@example.org": "550 no such mailbox"}}
    assert manners.reached == ["ana@example.org"]
    assert "bo@example.org was refused: 550" in caplog.text


@pytest.mark.parametrize("code", [552, 554])
def test_a_message_refused_for_its_content_gives_up(server, manners, code):
    manners.data_answer = f"{code} we do not like it"

    with pytest.raises(GiveUp, match=f"{code} we do not like it"):
        send.run(to=["ana@example.org"], **LETTER)


def test_a_message_put_off_for_its_content_is_tried_again(server, manners):
    manners.data_answer = "452 disk full"

    with pytest.raises(Retry, match="452 disk full"):
        send.run(to=["ana@example.org"], **LETTER)


def test_a_sender_refused_for_good_gives_up(server, manners):
    manners.sender_answer = "553 not your address"

    with pytest.raises(GiveUp, match="553 not your address"):
        send.run(to=["ana@example.org"], **LETTER)


@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_a_server_that_is_away_is_tried_again(server, job_type):
    server.stop()

    with pytest.raises(Retry, match="does not answer"):
        job_type.run(to=["ana@example.org"], **LETTER)


@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_where_no_server_is_configured_a_mail_fails_at_once(job_type, settings):
    settings.EMAIL_BACKEND = "project.email_backend.NoServer"

    with pytest.raises(GiveUp, match=r"No mail server is configured: set EMAIL_URL.* retry this job\."):
        job_type.run(to=["ana@example.org"], **LETTER)


def test_an_unknown_host_is_tried_again(server, settings):
    settings.EMAIL_HOST = "no-such-host.invalid"

    with pytest.raises(Retry, match="does not answer"):
        send.run(to=["ana@example.org"], **LETTER)


def test_a_server_that_cannot_do_tls_is_no_use_trying_again(server, settings):
    settings.EMAIL_USE_TLS = True

    with pytest.raises(GiveUp, match="does not support a part of EMAIL_URL"):
        send.run(to=["ana@example.org"], **LETTER)


def test_a_connection_closed_between_messages_is_opened_again(server, manners):
    manners.hang_up_after = 2
    people = [f"p{n}@example.org" for n in range(7)]

    result = send_to_list.run(to=people, **LETTER)

    assert result == {"accepted": 7, "refused": {}}
    assert manners.reached == people
    assert len(manners.sessions) == 4


def test_a_server_that_only_hangs_up_is_tried_again_later(server, manners):
    manners.hang_up_after = 0

    with pytest.raises(Retry, match="closed the connection: 421"):
        send_to_list.run(to=["ana@example.org"], **LETTER)


def test_a_list_goes_on_past_refused_addresses_and_names_them(server, manners):
    manners.answers["p3@example.org"] = "550 gone"
    ctx = LocalContext()

    result = send_to_list.run_with(ctx, to=[f"p{n}@example.org" for n in range(6)], **LETTER)

    assert result == {"accepted": 5, "refused": {"p3@example.org": "550 gone"}}
    assert manners.reached == [f"p{n}@example.org" for n in (0, 1, 2, 4, 5)]
    assert all(message["To"] == recipients[0] for recipients, message in manners.accepted)


def test_a_list_that_is_refused_whole_gives_up(server, manners):
    manners.answers = {f"p{n}@example.org": "550 gone" for n in range(3)}

    with pytest.raises(GiveUp, match="refused all addresses"):
        send_to_list.run(to=list(manners.answers), **LETTER)


def test_whoever_is_put_off_gets_the_mail_from_a_follow_up_job(server, manners, database):
    manners.answers["bo@example.org"] = "450 mailbox full"
    ctx = LocalContext()

    returned = send.run_with(ctx, to=["ana@example.org", "Bo <bo@example.org>"], **LETTER)

    follow_up = Job.objects.get()
    told = {"addresses": 1, "job": str(follow_up.id)}
    assert ctx.host.completed == [{"accepted": 1, "refused": {}, "follow_up": told}]
    assert returned is None
    assert follow_up.type == "email.send"
    assert follow_up.params["to"] == ['"Bo" <bo@example.org>']
    assert follow_up.params["subject"] == "Hello"
    assert follow_up.run_at > follow_up.created_at


def test_a_list_hands_what_was_put_off_or_not_reached_to_a_follow_up_job(server, manners, database):
    people = [f"p{n}@example.org" for n in range(6)]
    manners.answers = {"p1@example.org": "450 later", "p2@example.org": "550 never"}
    ctx = LocalContext()
    ctx.host = ServerAwayAfter(4, server)

    send_to_list.run_with(ctx, to=people, **LETTER)

    (result,) = ctx.host.completed
    follow_up = Job.objects.get()
    assert manners.reached == ["p0@example.org", "p3@example.org"]
    assert follow_up.params["to"] == ["p4@example.org", "p5@example.org", "p1@example.org"]
    assert result["accepted"] == 2
    assert result["refused"] == {"p2@example.org": "550 never"}
    assert result["follow_up"] == {"addresses": 3, "job": str(follow_up.id)}


def test_a_follow_up_keeps_the_attachments(server, manners, database):
    manners.answers["bo@example.org"] = "450 later"
    file = save_upload("figures.csv", "text/csv", [b"a,b\r\n1,2\r\n"])

    ctx = LocalContext()
    ctx.host = StoredUploads()

    send.run_with(ctx, to=["ana@example.org", "bo@example.org"], attachments=[str(file.pk)], **LETTER)

    ((_, message),) = manners.accepted
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "figures.csv"
    assert attachment.get_payload(decode=True) == b"a,b\r\n1,2\r\n"
    assert Job.objects.get().params["attachments"] == [str(file.pk)]


@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_a_server_may_think_about_a_message_for_longer_than_about_a_command(
    server, manners, settings, job_type
):
    settings.EMAIL_TIMEOUT, manners.answers_in_s = 0.5, 1.5

    result = job_type.run(to=["ana@example.org"], **LETTER)

    assert result == {"accepted": 1, "refused": {}}
    assert manners.reached == ["ana@example.org"]


@pytest.mark.parametrize("job_type", [send, send_to_list])
@pytest.mark.parametrize("unclear", ["dropped", "slower than the limit", "nonsense"])
def test_what_may_have_been_taken_is_not_sent_again_at_once(server, manners, monkeypatch, job_type, unclear):
    if unclear == "dropped":
        manners.drops_after_data_for = {"ana@example.org"}
    elif unclear == "nonsense":
        manners.data_answer = "25? what"
    else:
        manners.answers_in_s = 1.5
        monkeypatch.setattr(_transaction, "VERDICT_S", 0.5)
    ctx = LocalContext()

    with pytest.raises(Retry, match="may have accepted it, so the next try is in 15 minutes") as raised:
        job_type.run_with(ctx, to=["ana@example.org"], **LETTER)

    assert raised.value.after == 900
    assert manners.reached == ["ana@example.org"]


@pytest.mark.parametrize("trouble", ["hangs_at", "drops_at", "drops_after_data_for", "nonsense", "421"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_at_whom_the_server_breaks_keeps_the_mail_from_nobody(
    server, manners, settings, database, trouble, place
):
    settings.EMAIL_TIMEOUT = 1
    people = ["ana@example.org", "bo@example.org", "cy@example.org"]
    odd = people[place]
    if trouble in ("nonsense", "421"):
        manners.answers[odd] = "hello there" if trouble == "nonsense" else "421 closing"
    else:
        setattr(manners, trouble, {odd})
    ctx = LocalContext()

    send_to_list.run_with(ctx, to=people, **LETTER)

    (result,) = ctx.host.completed
    follow_up = Job.objects.get()
    assert [one for one in manners.reached if one != odd] == [one for one in people if one != odd]
    assert result["accepted"] == 2
    assert follow_up.params["to"] == [odd]
    if trouble == "hangs_at":  # and nobody waits for it twice
        assert len(manners.sessions) == (1 if place == 2 else 2)


@pytest.mark.parametrize("trouble", ["hangs_at", "drops_at"])
def test_a_message_to_several_reaches_the_others_too(server, manners, settings, database, trouble):
    settings.EMAIL_TIMEOUT = 1
    setattr(manners, trouble, {"bo@example.org"})
    ctx = LocalContext()

    send.run_with(ctx, to=["ana@example.org", "bo@example.org", "cy@example.org"], **LETTER)

    assert ctx.host.completed[0]["accepted"] == 2
    assert manners.reached == ["ana@example.org", "cy@example.org"]
    assert Job.objects.get().params["to"] == ["bo@example.org"]


@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_whoever_stands_behind_many_broken_ones_is_reached_by_a_later_try(
    server, manners, database, job_type
):
    broken = [f"p{n}@example.org" for n in range(MOST_BREAKS + 5)]
    manners.drops_at = set(broken)
    people = [*broken, "ana@example.org"]

    with pytest.raises(Retry, match="connection to the mail server broke"):
        job_type.run(to=people, **LETTER)
    job_type.run_with(LocalContext(try_number=2), to=people, **LETTER)

    assert manners.reached == ["ana@example.org"]


def test_a_list_that_takes_too_long_goes_on_in_a_follow_up_job(server, manners, database, monkeypatch):
    monkeypatch.setattr(jobs.email, "LIST_ENOUGH_S", 0)
    ctx = LocalContext()

    send_to_list.run_with(ctx, to=["ana@example.org", "bo@example.org", "cy@example.org"], **LETTER)

    assert manners.reached == ["ana@example.org"]
    assert Job.objects.get().params["to"] == ["bo@example.org", "cy@example.org"]


def test_a_follow_up_comes_later_and_under_the_same_message_id_if_a_message_may_have_been_taken(
    server, manners, database
):
    manners.drops_after_data_for = {"bo@example.org"}
    ctx = LocalContext()

    send_to_list.run_with(ctx, to=["ana@example.org", "bo@example.org"], **LETTER)
    follow_up = Job.objects.get()
    manners.drops_after_data_for = set()
    send_to_list.run(**follow_up.params)

    (_, first), (_, again) = manners.accepted[1:]
    assert (follow_up.run_at - follow_up.created_at).total_seconds() > 800
    assert first["Message-ID"] == again["Message-ID"]
    assert str(ctx.job_id) in first["Message-ID"]


@pytest.mark.parametrize("job_type", [send, send_to_list])
@pytest.mark.parametrize(
    "written", ['"bo"@example.org', '"b\\o"@example.org', "bo@EXAMPLE.org", '"bo..o"@example.org']
)
def test_whoever_is_put_off_is_put_off_however_the_address_is_spelled(
    server, manners, database, job_type, written
):
    manners.answers = dict.fromkeys(
        ["bo@example.org", "bo@EXAMPLE.org", '"bo..o"@example.org', "bo..o@example.org"], "450 busy"
    )
    ctx = LocalContext()

    job_type.run_with(ctx, to=[written, "ana@example.org"], **LETTER)

    (result,) = ctx.host.completed
    assert (result["accepted"], result["follow_up"]["addresses"]) == (1, 1)
    assert manners.reached == ["ana@example.org"]


def test_a_long_message_may_take_longer_than_the_limit_of_a_command(server, manners, settings):
    """The limit is one slice's; here the server reads the first of many only after a while."""
    settings.EMAIL_TIMEOUT = 1
    ref, ctx = str(uuid4()), LocalContext()
    ctx.host.uploads[ref] = bytes(4 * 1024**2)

    send.run_with(ctx, to=["ana@example.org"], attachments=[ref], **LETTER)

    (content,) = manners.raw
    assert len(content) > 5 * 1024**2


def test_dots_and_line_ends_arrive_as_they_were_written(server, manners):
    text = ".\n..\n.x\n\n.\nFrom here\n" + "y" * 2000 + "\n."

    send.run(to=["ana@example.org"], subject="Hello", text=text)

    ((_, message),) = manners.accepted
    assert message.get_content().replace("\r\n", "\n").rstrip("\n") == text
    assert max(map(len, manners.raw[0].split(b"\r\n"))) < 998


@pytest.mark.parametrize("answer", ["251 will forward", "252 cannot verify", "250"])
def test_the_first_digit_of_an_answer_counts(server, manners, answer):
    manners.answers["ana@example.org"] = manners.data_answer = answer

    result = send.run(to=["ana@example.org"], **LETTER)

    assert result == {"accepted": 1, "refused": {}}


def test_a_server_under_a_name_of_another_script_is_looked_up_by_its_own_name(server, settings):
    """IDNA 2003 would look for strasse.invalid, which may be somebody else's, and give him the password."""
    settings.EMAIL_HOST = "stra\u200d.invalid"

    with pytest.raises(GiveUp, match="EMAIL_URL: has a domain that cannot be registered"):
        send.run(to=["ana@example.org"], **LETTER)
