"""What `jobs submit` says to words that are wrong: all of it at once, each thing by the name under which it was typed."""

from __future__ import annotations

import json
from io import StringIO
from typing import NamedTuple

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from esteira import Context, FileRef, job
from esteira.models import Job

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def _types(job_types: None) -> None:
    @job(name="cli.greet")
    def greet(ctx: Context, name: str = "ana") -> None:
        """Greet somebody."""

    @job(name="cli.read")
    def read(ctx: Context, text: FileRef) -> None:
        """Read a file."""


class Said(NamedTuple):
    out: str
    err: str
    code: int


def jobs(*words: str) -> Said:
    out, err, code = StringIO(), StringIO(), 0
    try:
        call_command("jobs", *words, stdout=out, stderr=err)
    except SystemExit as end:
        code = int(end.code or 0)
    return Said(out.getvalue(), err.getvalue(), code)


def test_all_mistakes_are_shown_at_once_and_nothing_is_stored() -> None:
    said = jobs("submit", "cli.read", "txt=x", "more=1")

    assert said.code == 1
    assert said.err.splitlines() == [
        "3 parameters need attention:",
        "  text  is required.",
        "  txt   is not a parameter of this job type; did you mean 'text'?",
        "  more  is not a parameter of this job type; remove it or check its spelling.",
    ]
    assert not Job.objects.exists()


LONG = "1" + "0" * 4300
TOO_LONG = "is not a finite number, or has more than 4,300 digits."


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"n={LONG}", f"n  {TOO_LONG}"),
        (f"n=-{LONG}", f"n  {TOO_LONG}"),
        (f"n:={LONG}", f"n  {TOO_LONG}"),
        (f"many={LONG}", f"many 1  {TOO_LONG}"),
        (f"many=[{LONG}]", f"many 1  {TOO_LONG}"),
        (f"many:=[1, {LONG}]", f"many 2  {TOO_LONG}"),
        ('box={"a": ' + LONG + "}", f"box a  {TOO_LONG}"),
        ('box={"a": 1, "a": 2}', "box a  occurs twice; remove one."),
        (
            f"--delay={LONG}",
            "must be a number of seconds from 0 to ten years, not one that is infinite or too large.",
        ),
    ],
)
def test_a_number_of_more_digits_than_python_reads_is_told_in_our_words(word: str, said: str) -> None:
    @job(name="cli.long")
    def long(ctx: Context, n: int = 1, many: list[int] = [], box: dict[str, int] = {}) -> None:  # noqa: B006
        """Count far."""

    assert said in jobs("submit", "cli.long", word).err


def test_a_word_that_is_no_id_and_no_type_is_quoted_in_short() -> None:
    User.objects.create_superuser("boss")

    by_id, by_type = jobs("show", LONG), jobs("token", "x", "--types=", "--types=a b")

    assert by_id.err.endswith("… is not the id of a job: give the whole id, or at least its last 8 digits.\n")
    assert len(by_id.err.splitlines()) == 1, "an id is no option of a submit that needs attention"
    assert "types: '' is neither the name of a job type nor a pattern such as email.*." in by_type.err


def test_a_name_that_looks_like_a_number_stays_a_name() -> None:
    @job(name="cli.count")
    def count(ctx: Context, of: dict[str, list[int]]) -> None:
        """Count things."""

    said = jobs(
        "submit", "cli.count", 'of:={"\u00b2": [0, "x"], "\u0663": [0, "x"], "' + "9" * 5000 + '": ["x"]}'
    )

    assert said.code == 1
    assert [line.split("  ")[1] for line in said.err.splitlines()[1:3]] == ["of \u00b2 2", "of \u0663 2"]


def test_true_is_no_number() -> None:
    said = jobs("submit", "demo.flaky", "failures:=true")

    assert (said.code, "failures  must be a number, not true." in said.err) == (1, True)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ('name:={"a": [{"b": 1, "b": 2}]}', "name a 1 b  occurs twice; remove one."),
        ("name:={", "name  is not JSON: Expecting property name enclosed in double quotes"),
        ("name:=" + "[" * 5000, "name  is not JSON: it is nested too deeply."),
        ("name:=1" + "0" * 5000, "name  Input should be a valid string."),
    ],
)
def test_json_that_is_odd_is_refused_as_over_http(word: str, line: str) -> None:
    said = jobs("submit", "cli.greet", word)

    assert said.code == 1
    assert line in said.err
    assert not Job.objects.exists()


def test_mistakes_in_parameters_options_and_types_are_shown_at_once() -> None:
    words = ["nam=x", "--queue=nobody", "--delay=soon", "--run-at=tomorrow", "--unique=", "--priority=urgent"]

    said = jobs("submit", "cli.greet", *words)
    as_json = json.loads(jobs("submit", "cli.greet", *words, "--json").err)
    of_no_type = jobs("submit", "cli.gret", "--expires-in=0")

    assert said.code == 2
    assert said.err.splitlines()[0] == "6 things need attention:"
    assert [line.split()[0] for line in said.err.splitlines()[1:]] == [
        "--delay",
        "--run-at",
        "nam",
        "--queue",
        "--priority",
        "--unique",
    ]
    assert len(as_json["errors"]) == 6
    assert of_no_type.code == 1
    assert [line.split()[0] for line in of_no_type.err.splitlines()[1:]] == ["type", "--expires-in"]
    assert "cli.greet" in of_no_type.err
    assert not Job.objects.exists()


def test_mistakes_as_json_are_for_scripts() -> None:
    said = jobs("submit", "cli.greet", "nam=x", "--json")

    problem = json.loads(said.err)
    assert problem["code"] == "invalid-parameters"
    assert problem["errors"][0]["pointer"] == "#/params/nam"
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "sentence", "also_odd"),
    [
        (["list", "--limit"], "must be a whole number from 1 to 100,000", "5.0"),
        (["files", "--limit"], "must be a whole number from 1 to 100,000", "5.0"),
        (["submit", "cli.greet", "--delay"], "is no duration", "1h "),
        (["submit", "cli.greet", "--expires-in"], "is no duration", "\n5"),
        (["token", "x", "--expires"], "is no duration", "\u0665h"),
    ],
)
def test_a_number_is_plain_digits(words: list[str], sentence: str, also_odd: str) -> None:
    """Python reads more than that: `1_0` as ten, and the digits of every script."""
    User.objects.create_superuser("boss")
    *before, option = words

    def said(number: str) -> str:
        try:
            answer = jobs(*before, f"{option}={number}")
        except CommandError as error:  # argparse refuses it before there is a command
            return str(error)
        return answer.err if answer.code == 2 else f"exit {answer.code}"

    for number in ("1_0", " 5", "5 ", "+5", "\u0665", "\uff15", "5e0", "", "9" * 5000 + "x", also_odd):
        assert sentence in said(number), number


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["list", "--type="], "--type: must be 1 to 120 characters."),
        (["list", "--queue="], "--queue: must be 1 to 60 characters."),
        (["files", "--user="], "--user: must be 1 to 300 characters."),
        (["token", "x", "--user="], "--user: must be 1 to 300 characters."),
        (["types", ""], "There is no job type ''."),
    ],
)
def test_an_empty_word_is_never_taken_for_none(words: list[str], sentence: str) -> None:
    """A script whose variable is empty would list everything, or make a token for a superuser."""
    User.objects.create_superuser("boss")

    said = jobs(*words)

    assert said.code in (1, 2)
    assert sentence in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--queue=nobody"], "--queue  no worker reads 'nobody'"),
        (["--queue="], "--queue  no worker reads ''"),
        (["--delay=1h", "--expires-in=0"], "--expires-in  must be a number of seconds"),
        (["--priority="], "--priority  must be one of high, normal, low"),
        (["--delay=1h", "--run-at=2030-01-01T00:00Z"], "--run-at  cannot be combined with a delay"),
    ],
)
def test_what_the_core_refuses_is_named_as_it_was_typed(words: list[str], sentence: str) -> None:
    said = jobs("submit", "cli.greet", *words)

    assert said.code == 1
    assert sentence in said.err
