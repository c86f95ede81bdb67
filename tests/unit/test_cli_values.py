"""What is typed on the command line: parameters, durations, moments; and how a parameter is described."""

from __future__ import annotations

import argparse
import os
import shlex
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, Field

from esteira import Context, FileRef, Secret, job
from esteira.errors import InvalidParameters
from esteira.job_types.registry import JobType
from esteira_web.cli import hints, typed_values
from esteira_web.cli.errors import Usage
from esteira_web.read import durations, words
from esteira_web.read.parameters import parameters


class Size(Enum):
    SMALL = 1
    LARGE = 2


class Box(BaseModel):
    width: int
    height: int = 1


@pytest.fixture(autouse=True)
def _forget(job_types: None) -> None:
    """Forget the declared types."""


@pytest.fixture
def everything() -> JobType:
    @job(name="cli.everything")
    def everything(
        ctx: Context,
        name: str,
        n: Annotated[int, Field(gt=0, le=10)] = 1,
        ratio: float | None = None,
        on: bool = False,
        day: date | None = None,
        sizes: list[int] = [],  # noqa: B006
        words: list[str] = [],  # noqa: B006
        split: Annotated[
            list[str], BeforeValidator(lambda v: v.split(";") if isinstance(v, str) else v)
        ] = [],  # noqa: B006
        level: Literal[1, 2, "high"] = 1,
        size: Size = Size.SMALL,
        box: Box | None = None,
        anything: Any = None,
        picture: FileRef | None = None,
        pictures: tuple[FileRef, ...] = (),
        password: Secret = Secret("x"),  # noqa: B008
    ) -> None: ...

    return everything


def read(kind: JobType, *plain: str, files: tuple[str, ...] = ()) -> dict[str, Any]:
    return typed_values.read(kind, typed_values.words(plain, files), lambda path, _: f"id-of-{path.name}")


def mistakes(kind: JobType, *plain: str, files: tuple[str, ...] = ()) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as caught:
        read(kind, *plain, files=files)
    return {one.pointer.removeprefix("#/params/"): one.detail for one in caught.value.mistakes}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("name=a=b", "a=b"),
        ("name=7", "7"),
        ("n=7", "7"),  # the model reads numbers itself
        ("n:=7", 7),
        ("ratio=", None),
        ("on:=true", True),
        ("sizes=3", ["3"]),
        ("sizes=[3, 4]", [3, 4]),
        ("words=[not json", None),
        ("words=a,b", ["a,b"]),
        ("split=a;b", "a;b"),  # the job type splits it itself
        ("level=2", 2),
        ("level=high", "high"),
        ("size=2", 2),
        ('box={"width": 3}', {"width": 3}),
        ('anything={"a": 1}', '{"a": 1}'),
        ('anything:={"a": 1}', {"a": 1}),
    ],
)
def test_a_word_becomes_what_the_parameter_takes(everything: JobType, word: str, value: Any) -> None:
    name = word.partition("=")[0].rstrip(":")
    others = [] if name == "name" else ["name=x"]
    if word == "words=[not json":
        assert "is not JSON" in mistakes(everything, *others, word)["words"]
    else:
        assert read(everything, *others, word)[name] == value


def test_a_repeated_word_is_a_list(everything: JobType) -> None:
    assert read(everything, "name=x", "words=a", "words=b", "sizes:=1", "sizes=2") == {
        "name": "x",
        "words": ["a", "b"],
        "sizes": [1, "2"],
    }


def test_all_mistakes_are_found_at_once(everything: JobType) -> None:
    assert mistakes(everything, "n=0", "sizes=x", "ratio:=x", "nam=x", "on=a", "on=b") == {
        "name": "is required.",
        "n": "Input should be greater than 0.",
        "sizes/0": "Input should be a valid integer, unable to parse string as an integer.",
        "ratio": "is not JSON: Expecting value: line 1 column 1 (char 0).",
        "nam": "is not a parameter of this job type; did you mean 'name'?",
        "on": "is given 2 times, but takes one value.",
    }


@pytest.mark.parametrize("word", ["name", "=x", ":=1", "--file", ""])
def test_a_word_without_name_or_sign_is_a_typing_mistake(everything: JobType, word: str) -> None:
    with pytest.raises(Usage, match="is not a parameter"):
        read(everything, word)


@pytest.mark.parametrize("word", ["picture", "picture=", "=a.jpg"])
def test_a_file_without_name_or_path_is_a_typing_mistake(everything: JobType, word: str) -> None:
    with pytest.raises(Usage, match="--file name=path"):
        read(everything, "name=x", files=(word,))


def test_files_are_uploaded_and_stand_in_lists(everything: JobType, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)

    got = read(
        everything,
        "name=x",
        files=(f"picture={tmp_path}/a", f"pictures={tmp_path}/b", f"pictures={tmp_path}/c"),
    )

    assert (got["picture"], got["pictures"]) == ("id-of-a", ["id-of-b", "id-of-c"])


def test_one_file_for_a_list_is_a_list(everything: JobType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")

    assert read(everything, "name=x", files=(f"pictures={tmp_path}/a",))["pictures"] == ["id-of-a"]


def test_nothing_is_uploaded_if_anything_is_wrong(everything: JobType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    uploaded: list[Path] = []

    with pytest.raises(InvalidParameters):
        typed_values.read(
            everything,
            typed_values.words(["n=0"], [f"picture={tmp_path}/a"]),
            lambda path, _: str(uploaded.append(path)),
        )

    assert not uploaded


def test_mistakes_about_files_say_what_to_type(everything: JobType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    here = str(tmp_path / "a")

    assert mistakes(everything, "name=x", "picture=a.jpg") == {
        "picture": "takes a file: --file picture=a.jpg"
    }
    assert mistakes(everything, files=(f"name={here}",)) == {"name": "does not take a file: write name=…"}
    assert mistakes(everything, "name=x", files=("picture=/no/such",)) == {
        "picture": "there is no file /no/such."
    }


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("docker compose exec web manage", "docker compose cp 'my picture.jpg' web:/data/"),
        ("docker compose exec -T web manage", "docker compose cp 'my picture.jpg' web:/data/"),
        (
            "kubectl exec deploy/web -- manage",
            """kubectl exec -i deploy/web -- sh -c 'cat > '"'"'/data/my picture.jpg'"'"'' < 'my picture.jpg'""",
        ),
    ],
)
def test_in_a_container_a_missing_file_comes_with_the_line_that_brings_it(
    everything: JobType, settings: Any, command: str, line: str
) -> None:
    settings.MANAGE_COMMAND, settings.DATA_DIR = command, Path("/data")

    found = mistakes(everything, "name=x", files=("picture=my picture.jpg",))

    assert found == {
        "picture": f"there is no file my picture.jpg in this container; copy it with `{line}`, "
        "then use --file picture=/data/my picture.jpg."
    }
    assert shlex.split(line), "it can be typed"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("manage.py", ""),
        ("ssh host manage", ""),
        ("docker compose exec web manage", "docker compose cp web:/data/demo ."),
        (
            "kubectl exec deploy/web -- manage",
            "kubectl exec deploy/web -- tar -C /data -cf - demo | tar -xf -",
        ),
    ],
)
def test_what_was_saved_in_a_container_comes_with_the_line_that_fetches_it(
    settings: Any, command: str, line: str
) -> None:
    settings.MANAGE_COMMAND = command

    assert hints.fetched(Path("/data/demo")) == line


def test_a_file_that_the_command_may_not_read_is_a_mistake(
    everything: JobType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(
        "os.access", lambda path, mode: False
    )  # root, who may run the tests, reads everything

    found = mistakes(everything, "name=x", files=(f"picture={tmp_path}/a",))

    assert found["picture"].endswith("/a exists, but user " + str(os.getuid()) + " may not read it.")


def test_a_parameter_is_described_in_words(everything: JobType) -> None:
    said = {name: parameter.words() for name, parameter in parameters(everything).items()}

    assert said == {
        "name": "text",
        "n": "integer, at most 10, above 0",
        "ratio": "number",
        "on": "true or false",
        "day": "date",
        "sizes": "list of integer",
        "words": "list of text",
        "split": "list of text",
        "level": "one of 1, 2, high",
        "size": "one of 1, 2",
        "box": "JSON object",
        "anything": "anything",
        "picture": "file",
        "pictures": "list of file",
        "password": "secret text",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5s", 1.5), ("5m", 300), ("5min", 300), ("1h30m", 5400), ("2d", 172800)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert durations.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5 weeks", "-5", "1h-", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="1h30m"):
        durations.duration(text)


def test_a_moment_needs_its_zone() -> None:
    assert durations.moment("2026-11-30T09:00-03:00") == datetime(2026, 11, 30, 12, tzinfo=UTC)
    with pytest.raises(argparse.ArgumentTypeError, match="has no time zone: write 2026-11-30T09:00:00Z"):
        durations.moment("2026-11-30T09:00")
    with pytest.raises(argparse.ArgumentTypeError, match="is no date and time"):
        durations.moment("tomorrow")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0001, "under 1 ms"),
        (0.03, "30 ms"),
        (1.24, "1.2 s"),
        (59, "59 s"),
        (65, "1 min 5 s"),
        (120, "2 min"),
        (7380, "2 h 3 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_is_said_in_one_unit_or_two(seconds: float, said: str) -> None:
    assert words.span(seconds) == said


def test_a_moment_is_said_from_here() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert durations.ago(now - timedelta(minutes=3), now) == "3 min ago"
    assert durations.ago(now + timedelta(hours=2), now) == "in 2 h"
    assert durations.ago(now, now) == "now"
    assert durations.ago(None, now) == ""
