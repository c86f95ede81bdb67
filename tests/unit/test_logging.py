"""Every process logs in one way, with the level and the file of its settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from project.logging import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put the suite's own handlers and levels back."""
    root, before = logging.getLogger(), {}
    handlers = list(root.handlers)
    for name in ("", "celery.worker.strategy", "celery.app.trace"):
        before[name] = logging.getLogger(name).level
    yield
    root.handlers[:] = handlers
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def said(file: Path) -> str:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("shop").log(level, "at %s", logging.getLevelName(level))
        logging.getLogger("celery.app.trace").log(level, "of a message at %s", logging.getLevelName(level))
    return file.read_text()


@pytest.mark.parametrize(
    ("level", "shop", "messages"),
    [(logging.DEBUG, 4, 4), ("INFO", 3, 2), (logging.WARNING, 2, 2), ("ERROR", 1, 1)],
)
def test_a_file_holds_what_its_level_lets_through(
    tmp_path: Path, level: int | str, shop: int, messages: int
) -> None:
    configure(level, "text", str(tmp_path / "log"))

    lines = said(tmp_path / "log").splitlines()

    assert len([line for line in lines if " shop: " in line]) == shop
    assert len([line for line in lines if " celery.app.trace: " in line]) == messages


def test_a_file_holds_objects_if_they_are_wanted(tmp_path: Path) -> None:
    configure("ERROR", "json", str(tmp_path / "log"))

    lines = [json.loads(line) for line in said(tmp_path / "log").splitlines()]

    assert {line["level"] for line in lines} == {"error"}


def test_a_file_may_be_rotated(tmp_path: Path) -> None:
    configure("INFO", "text", str(tmp_path / "log"))
    said(tmp_path / "log")

    (tmp_path / "log").rename(tmp_path / "log.1")
    logging.getLogger("shop").info("after it")

    assert "after it" in (tmp_path / "log").read_text()


def test_what_reaches_a_jobs_own_log_does_not_depend_on_the_level(tmp_path: Path) -> None:
    """A handler of the root logger keeps it, whatever this process writes."""
    configure("ERROR", "text", str(tmp_path / "log"))

    assert logging.getLogger("jobs.shop").isEnabledFor(logging.INFO)


NASTY = "a\r\x1b[2Jb\n2026-01-01 00:00:00 ERROR shop: forged\u202e\x9b\u2028c"


def test_what_a_submitter_wrote_makes_no_line_and_steers_no_terminal(tmp_path: Path) -> None:
    configure("INFO", "text", str(tmp_path / "log"))

    logging.getLogger("shop").info("about %s", NASTY)
    try:
        raise ValueError(NASTY)
    except ValueError:
        logging.getLogger("shop").exception("failed")

    text = (tmp_path / "log").read_text()
    ours = [line for line in text.split("\n") if line and not line.startswith(" ")]
    assert [line.partition(" shop: ")[2][:6] for line in ours] == ["about ", "failed"]
    assert "\u240a2026-01-01" in ours[0]
    assert not {"\r", "\x1b", "\x9b", "\u202e", "\u2028"} & set(text)


def test_an_object_a_line_holds_the_same_and_nothing_that_steers(tmp_path: Path) -> None:
    configure("INFO", "json", str(tmp_path / "log"))

    logging.getLogger("shop").info("about %s", NASTY)

    text = (tmp_path / "log").read_text()
    assert json.loads(text)["msg"] == f"about {NASTY}"
    assert text.count("\n") == 1 and not {"\r", "\x1b", "\x9b", "\u202e", "\u2028"} & set(text)


def test_what_anybody_can_cause_is_said_thirty_times_a_minute_and_what_broke_always(tmp_path: Path) -> None:
    configure("INFO", "text", str(tmp_path / "log"))

    for _ in range(100):
        logging.getLogger("django.request").warning("Not Found: /x")
        logging.getLogger("django.request").error("Internal Server Error: /x")
        try:
            raise ValueError("evil.example")
        except ValueError:
            logging.getLogger("django.security.DisallowedHost").exception("Invalid HTTP_HOST header")

    text = (tmp_path / "log").read_text()
    assert text.count("Not Found") == text.count("Invalid HTTP_HOST") == 30
    assert text.count("Internal Server Error") == 100
    assert "Traceback" not in text
