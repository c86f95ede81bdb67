"""What the e-mail jobs accept, refuse and write into a message, without a mail server."""

from __future__ import annotations

import email
import email.policy
import io
import re
from email.header import decode_header, make_header
from uuid import uuid4

import pytest
from django.core import mail

from esteira import Cancelled, GiveUp, LocalContext
from esteira.errors import InvalidParameters
from esteira.job_types.checking import check
from esteira.job_types.context import MemoryHost
from jobs.email import _letter, send, send_to_list

LETTER = {"subject": "Hello", "text": "Good morning."}


def sent() -> list[email.message.EmailMessage]:
    """Every message in memory, as a mail program would parse it."""
    return [
        email.message_from_bytes(m.message().as_bytes(), policy=email.policy.default) for m in mail.outbox
    ]


@pytest.fixture(autouse=True)
def outbox(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.DEFAULT_FROM_EMAIL = "Esteira <jobs@example.org>"
    mail.outbox = []


class NamedFile(io.BytesIO):
    name = ""


class UploadsWithNames(MemoryHost):
    """Uploads that know their names, as stored ones do."""

    names: dict[str, str] = {}

    def open(self, ref):
        stream = NamedFile(self.uploads[ref])
        stream.name = self.names[ref]
        return stream


def unfolded(raw: bytes) -> list[bytes]:
    """The lines of a header, as a mail program puts them together again."""
    return raw.partition(b"\n\n")[0].replace(b"\n ", b" ").split(b"\n")


def context_with_upload(name: str, data: bytes) -> tuple[LocalContext, str]:
    ref, ctx = str(uuid4()), LocalContext()
    ctx.host = UploadsWithNames(uploads={ref: data})
    ctx.host.names = {ref: name}
    return ctx, ref


def test_a_message_has_what_it_was_given():
    result = send.run(
        to=["Ana Lima <ana@example.org>", "bo@example.org"], reply_to="desk@example.org", **LETTER
    )

    (message,) = sent()
    assert result == {"accepted": 2, "refused": {}}
    assert message["Subject"] == "Hello"
    assert message["From"] == "Esteira <jobs@example.org>"
    assert message["To"] == "Ana Lima <ana@example.org>, bo@example.org"
    assert message["Reply-To"] == "desk@example.org"
    assert message.get_content() == "Good morning."


def test_html_goes_beside_the_text():
    send.run(to=["ana@example.org"], html="<p>Good <b>morning</b>", **LETTER)

    (message,) = sent()
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_every_script_arrives_as_it_was_written():
    send.run(to=["José 李 <jose@exämple.org>"], subject="Olá, 世界 👩‍👧", text="ação\n絵文字 🎉\n")

    (message,) = sent()
    assert message["Subject"] == "Olá, 世界 👩‍👧"
    assert message["To"].addresses[0].display_name == "José 李"
    assert message["To"].addresses[0].addr_spec == "jose@xn--exmple-cua.org"
    assert message.get_content() == "ação\n絵文字 🎉\n"


def test_the_message_id_is_the_same_for_every_attempt_and_other_for_every_job():
    first, other = LocalContext(attempt=1), LocalContext()
    again = LocalContext(attempt=2)
    again.job_id = first.job_id

    for ctx in (first, again, other):
        send.run_with(ctx, to=["ana@example.org"], **LETTER)

    ids = [message["Message-ID"] for message in sent()]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] == f"<{first.idempotency_key}@example.org>"


def test_each_copy_of_a_list_has_a_message_id_that_repeats():
    ctx, again = LocalContext(), LocalContext(attempt=2)
    again.job_id = ctx.job_id

    for one in (ctx, again):
        send_to_list.run_with(one, to=["ana@example.org", "bo@example.org"], **LETTER)

    ids = [message["Message-ID"] for message in sent()]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


def test_a_list_is_sent_one_by_one_with_progress():
    ctx = LocalContext()

    result = send_to_list.run_with(ctx, to=[f"p{n}@example.org" for n in range(30)], **LETTER)

    assert result == {"accepted": 30, "refused": {}}
    assert [message["To"] for message in sent()] == [f"p{n}@example.org" for n in range(30)]
    assert ctx.progress_calls[-1] == (30, 30, "Sending")


def test_an_address_that_stands_in_a_list_twice_gets_one_message():
    send_to_list.run(to=["ana@example.org", "bo@example.org", "Ana <ANA@example.org>"], **LETTER)

    assert [message["To"] for message in sent()] == ["ana@example.org", "bo@example.org"]


def test_a_pasted_text_is_a_list_too():
    send_to_list.run(to="ana@example.org, bo@example.org;\r\nCy <cy@example.org>\n\n", **LETTER)

    assert [message["To"] for message in sent()] == [
        "ana@example.org",
        "bo@example.org",
        "Cy <cy@example.org>",
    ]


ANA, RUI = '"Lima, Ana" <ana@example.org>', '"Souza, Rui" <rui@example.org>'


@pytest.mark.parametrize(
    ("pasted", "people"),
    [
        ('"Lima, Ana" <ana@example.org>; "Souza, Rui" <rui@example.org>', [ANA, RUI]),
        ("Lima, Ana <ana@example.org>; Souza, Rui <rui@example.org>;", [ANA, RUI]),
        ("Lima, Ana <ana@example.org>\r\nSouza, Rui <rui@example.org>\r\n", [ANA, RUI]),
        ('"Lima, Ana" <ana@example.org>, "Souza, Rui" <rui@example.org>', [ANA, RUI]),
        ("Lima, Ana <ana@example.org>", [ANA]),
        ('"Lima; Ana" <ana@example.org>', ['"Lima; Ana" <ana@example.org>']),
        (
            '"A \\"L, M\\" B" <ana@example.org>, rui@example.org',
            ['"A L, M B" <ana@example.org>', "rui@example.org"],
        ),
        ("ana@example.org,,rui@example.org,", ["ana@example.org", "rui@example.org"]),
        ("'Ana' <ana@example.org>; rui@example.org", ["\"'Ana'\" <ana@example.org>", "rui@example.org"]),
    ],
)
@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_a_list_is_read_as_mail_programs_write_it(job_type, pasted, people):
    checked, _ = check(job_type.model, {"to": pasted, **LETTER})

    assert checked.model_dump()["to"] == people


@pytest.mark.parametrize(
    "pasted",
    [
        "Lima, Ana <ana@example.org>, Souza, Rui <rui@example.org>",
        "ana@example.org, Lima, Rui <rui@example.org>",
        '"Lima, Ana <ana@example.org>; "Souza, Rui" <rui@example.org>',
        '"Ana <ana@example.org>; Rui" <rui@example.org>',
        'Ana" , bo@example.org, "Cy <cy@example.org>',
        "ana, bo@example.org",
        "ana@example.org bo@example.org",
        "Ana <ana@example.org> Rui <rui@example.org>",
    ],
)
@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_a_list_that_can_be_read_in_two_ways_is_refused_as_a_whole(job_type, pasted):
    with pytest.raises(InvalidParameters, match=r"#/params/to/\d: is not an address .* in quotes\."):
        job_type.run(to=pasted, **LETTER)

    assert not mail.outbox


@pytest.mark.parametrize("job_type", [send, send_to_list])
@pytest.mark.parametrize(("text", "html"), [(" ", ""), ("\n\t \u00a0\n", " \n")])
def test_a_mail_that_says_nothing_is_refused(job_type, text, html):
    with pytest.raises(InvalidParameters, match="#/params/html: is empty, and so is text; write one of them"):
        check(job_type.model, {"to": ["ana@example.org"], "subject": "Hello", "text": text, "html": html})


@pytest.mark.parametrize("job_type", [send, send_to_list])
@pytest.mark.parametrize(("text", "html"), [(" ", "<p>Hi</p>"), ("Hi", ""), ("Hi", " ")])
def test_a_text_or_html_is_enough(job_type, text, html):
    check(job_type.model, {"to": ["ana@example.org"], "subject": "Hello", "text": text, "html": html})


@pytest.mark.parametrize("to", [[], "", " ; \n,"])
@pytest.mark.parametrize("job_type", [send, send_to_list])
def test_a_mail_to_nobody_is_refused(job_type, to):
    with pytest.raises(InvalidParameters, match="#/params/to: "):
        check(job_type.model, {"to": to, **LETTER})


@pytest.mark.parametrize(
    ("domain", "ascii_domain"),
    [
        ("exämple.org", "xn--exmple-cua.org"),
        ("straße.de", "xn--strae-oqa.de"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
        ("ｅｘａｍｐｌｅ.org", "example.org"),
        ("例え。jp", "xn--r8jz45g.jp"),
        ("EXAMPLE.org", "EXAMPLE.org"),
        ("xn--strae-oqa.de", "xn--strae-oqa.de"),
    ],
)
def test_a_domain_of_another_script_is_the_one_that_was_registered(settings, domain, ascii_domain):
    """By the rules of 2003, which Python's codec and Django follow, straße.de is strasse.de: somebody else's."""
    settings.DEFAULT_FROM_EMAIL = f"Desk <jobs@{domain}>"

    send.run(to=[f"Ana <ana@{domain}>"], reply_to=f"desk@{domain}", **LETTER)

    (message,) = sent()
    assert message["To"] == f"Ana <ana@{ascii_domain}>"
    assert message["Reply-To"] == f"desk@{ascii_domain}"
    assert message["From"] == f"Desk <jobs@{ascii_domain}>"
    assert message["Message-ID"].endswith(f"@{ascii_domain}>")


@pytest.mark.parametrize("domain", ["exa\u200dmple.org", "i❤.ws", "exa_mplé.org", "é" * 70 + ".org", "a..é"])
def test_a_domain_that_nobody_can_register_is_refused_with_the_reason(domain):
    with pytest.raises(
        InvalidParameters, match=r"#/params/to/0: has a domain that cannot be registered \(.+\)"
    ):
        send.run(to=[f"ana@{domain}"], **LETTER)


def test_a_sender_that_is_no_address_is_told(settings):
    settings.DEFAULT_FROM_EMAIL = "exa\u200dmple@exa\u200dmple.org"

    with pytest.raises(GiveUp, match="DEFAULT_FROM_EMAIL has a domain that cannot be registered"):
        send.run(to=["ana@example.org"], **LETTER)


@pytest.mark.parametrize(
    ("written", "once"),
    [('"ana"@example.org', "ana@example.org"), ('"a.b"@example.org', "a.b@example.org")],
)
def test_quotes_that_an_address_does_not_need_make_no_second_one(written, once):
    result = send.run(to=[written, f"Ana <{once}>"], **LETTER)

    assert result == {"accepted": 1, "refused": {}}
    assert sent()[0]["To"] == once


@pytest.mark.parametrize(
    "subject",
    [
        "Hello\nBcc: all@example.org",
        "a\rb",
        "a\r\n\r\nbody",
        "a\x00",
        "a\x85b",
        "a\u2028b",
        "=?UTF-8?Q?a=0Ab?=",
        "",
        "x" * 201,
    ],
)
def test_a_subject_that_could_begin_a_header_is_refused(subject):
    with pytest.raises(InvalidParameters, match="#/params/subject"):
        send.run(to=["ana@example.org"], subject=subject, text="Hi")


@pytest.mark.parametrize(
    "address",
    [
        "ana@example.org\nBcc: all@example.org",
        "ana\r@example.org",
        "Ana\n <ana@example.org>",
        "=?utf-8?q?x=0ABcc:_all?= <ana@example.org>",
        "ana",
        "ana@",
        "@example.org",
        "ana@example.org>",
        "<ana@example.org",
        "Ana <ana@example.org> <bo@example.org>",
        "ana@example.org)bo@example.org",
        "ana@example.org bo@example.org",
        "ána@example.org",
        "\u017f@example.org",
        "ana@exa mple.org",
        "ana@" + "x" * 70 + ".org",
        "ana@..org",
        "x" * 101 + " <ana@example.org>",
        "x" * 400,
        "",
        None,
        7,
        {"email": "ana@example.org"},
    ],
)
@pytest.mark.parametrize("field", ["to", "reply_to"])
def test_what_is_no_address_is_refused_and_named(field, address):
    params = {"to": ["bo@example.org"], **LETTER}
    params[field] = ["ana@example.org", address] if field == "to" else address
    if params[field] is None:
        return  # no address to answer to is fine

    with pytest.raises(InvalidParameters, match="#/params/to/1" if field == "to" else "#/params/reply_to"):
        send.run(**params)


@pytest.mark.parametrize(
    ("written", "header"),
    [
        ("  ana@example.org ", "ana@example.org"),
        ("Lima, Ana <ana@example.org>", '"Lima, Ana" <ana@example.org>'),
        ('"Ana" <ana@example.org>', "Ana <ana@example.org>"),
        ('A "B" \\C <ana@example.org>', "A B C <ana@example.org>"),
        ("<ana@example.org>", "ana@example.org"),
        ("ana@localhost", "ana@localhost"),
        ("Ana (the boss) <ana@example.org>", '"Ana (the boss)" <ana@example.org>'),
        ("N " * 49 + "<ana@example.org>", None),
        ("名" * 100 + "<ana@example.org>", None),
    ],
)
def test_names_are_quoted_so_that_they_stay_names(written, header):
    send.run(to=[written], **LETTER)

    raw = mail.outbox[0].message().as_bytes()
    (message,) = sent()
    assert header is None or message["To"] == header
    assert len(message["To"].addresses) == 1
    assert set(message.keys()) == {
        "Content-Type", "MIME-Version", "Content-Transfer-Encoding", "Subject", "From", "To", "Date", "Message-ID",
    }  # fmt: skip
    assert b"\nBcc" not in raw


@pytest.mark.parametrize(
    "name", ["Zoë " * 24, "名前 " * 30, "Ana Maria é Silva " * 5, "é" * 60 + " " + "ü" * 39, "Ana " * 24]
)
@pytest.mark.parametrize("field", ["to", "reply_to"])
def test_a_long_name_is_folded_at_a_space(field, name):
    address = f"{name} <ana@example.org>"

    send.run(**{"to": ["bo@example.org"], field: [address] if field == "to" else address, **LETTER})

    raw = mail.outbox[0].message().as_bytes()
    line = next(part for part in unfolded(raw) if part.lower().startswith(field.encode().replace(b"_", b"-")))
    shown = str(make_header(decode_header(line.decode().partition(": ")[2].strip())))
    assert " ".join(name.split()) in " ".join(shown.replace('"', "").split())
    assert max(map(len, raw.split(b"\n"))) <= 78
    for word in re.findall(rb"=\?utf-8\?[bq]\?[^?]*\?=", line)[:-1]:
        whole = str(make_header(decode_header(word.decode())))
        assert whole.endswith(" ") or len(name.split()[0]) > 30


def test_too_many_addresses_are_refused():
    with pytest.raises(InvalidParameters, match="#/params/to"):
        send.run(to=[f"p{n}@example.org" for n in range(51)], **LETTER)
    with pytest.raises(InvalidParameters, match="#/params/to"):
        send_to_list.run(to=[f"p{n}@example.org" for n in range(1001)], **LETTER)


@pytest.mark.parametrize("to", [[], "", " \n,", None, {}, 5])
def test_nobody_to_send_to_is_refused(to):
    with pytest.raises(InvalidParameters, match="#/params/to"):
        send.run(to=to, **LETTER)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InvalidParameters) as refused:
        send.run(to=["nobody"], subject="a\nb", text="", bcc=["x@example.org"])

    pointers = {mistake.pointer for mistake in refused.value.mistakes}
    assert pointers == {"#/params/to/0", "#/params/subject", "#/params/text", "#/params/bcc"}


@pytest.mark.parametrize("data", [b"", b"a,b\r\n1,2\r\n", b"\x00\xff\n.\nFrom here", bytes(range(256)) * 999])
@pytest.mark.parametrize("name", ["report.csv", "photo.jpg", "data", "mail.eml", "archive.tar.gz"])
def test_an_attachment_arrives_byte_for_byte(name, data):
    ctx, ref = context_with_upload(name, data)

    send.run_with(ctx, to=["ana@example.org"], attachments=[ref], **LETTER)

    (attachment,) = sent()[0].iter_attachments()
    assert attachment.get_filename() == name
    assert attachment.get_payload(decode=True) == data


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.pdf", "application/pdf"),
        ("a.csv", "text/csv"),
        ("a.tar.gz", "application/octet-stream"),
        ("a.eml", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_an_attachment_says_what_it_is(name, kind):
    ctx, ref = context_with_upload(name, b"x")

    send.run_with(ctx, to=["ana@example.org"], attachments=[ref], **LETTER)

    (attachment,) = sent()[0].iter_attachments()
    assert attachment.get_content_type() == kind


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.txt", "x.txt"),
        ('a".txt', 'a".txt'),
        ("a\r\nBcc: all@example.org.txt", "aBcc: all@example.org.txt"),
        ("relatório 報告.pdf", "relatório 報告.pdf"),
        ("..", "attachment"),
        ("", "attachment"),
        ("x" * 300, "x" * 200),
        ("長" * 300 + ".txt", "長" * 200),
        ("a b  " * 39 + ".txt", "a b  " * 39 + ".txt"),
        ("50% é'x; y=z.txt", "50% é'x; y=z.txt"),
        ("utf-8''x.txt", "utf-8''x.txt"),
    ],
)
def test_a_file_name_cannot_leave_its_header_or_its_folder(name, safe):
    ctx, ref = context_with_upload(name, b"x")

    send.run_with(ctx, to=["ana@example.org"], attachments=[ref], **LETTER)

    message = sent()[0]
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == safe
    assert "Bcc" not in message
    assert "Bcc" not in attachment
    assert max(map(len, mail.outbox[0].message().as_bytes().split(b"\n"))) <= 78


def test_attachments_larger_than_a_mail_server_takes_are_refused():
    ref = str(uuid4())
    ctx = LocalContext(files={ref: bytes(_letter.LARGEST_ATTACHMENTS + 1)})
    half = LocalContext(files={ref: bytes(_letter.LARGEST_ATTACHMENTS // 2 + 1)})

    with pytest.raises(GiveUp, match="attachments: together they exceed 25 MiB"):
        send.run_with(ctx, to=["ana@example.org"], attachments=[ref], **LETTER)
    with pytest.raises(GiveUp, match="attachments"):
        send.run_with(half, to=["ana@example.org"], attachments=[ref, ref], **LETTER)


def test_an_attachment_that_is_gone_is_said_and_not_tried_again():
    with pytest.raises(GiveUp, match="upload it again"):
        send.run(to=["ana@example.org"], attachments=[str(uuid4())], **LETTER)
    assert not mail.outbox


@pytest.mark.parametrize("attachments", [["../etc/passwd"], [""], "x", [None], [str(uuid4())] * 21])
def test_what_is_no_uploaded_file_is_refused(attachments):
    with pytest.raises(InvalidParameters, match="#/params/attachments"):
        send.run(to=["ana@example.org"], attachments=attachments, **LETTER)


class CancelledAfterThreeMessages(MemoryHost):
    def check(self):
        self.cancelled = len(mail.outbox) >= 3
        super().check()


def test_a_cancelled_list_stops_before_the_next_address():
    ctx = LocalContext()
    ctx.host = CancelledAfterThreeMessages()

    with pytest.raises(Cancelled):
        send_to_list.run_with(ctx, to=[f"p{n}@example.org" for n in range(10)], **LETTER)

    assert len(mail.outbox) == 3


def test_every_parameter_has_a_title():
    for job_type in (send, send_to_list):
        assert all(p.get("title") for p in job_type.schema()["properties"].values())
