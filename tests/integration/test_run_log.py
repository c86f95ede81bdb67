"""What a job says is kept as far as it can be, however it says it."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

import pytest

from esteira import Context, job
from esteira.models import Job
from esteira.runner.held import LOG_MAX
from esteira.runner.runner import Runner
from tests.support.run_hints import run

pytestmark = pytest.mark.usefixtures("database", "job_types")


class Tangled:
    """Neither its text nor its representation can be had."""

    def __str__(self) -> str:
        raise ZeroDivisionError("cannot be written")

    __repr__ = __str__


def run_as_in_a_worker(runner: Runner, job_id: UUID, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run without pytest's handlers: they raise where a line cannot be written, and no handler of a worker does."""
    root = logging.getLogger()
    others = [one for one in root.handlers if not type(one).__module__.startswith("_pytest")]
    monkeypatch.setattr(root, "handlers", others)
    (row,) = run(runner, job_id)
    return row


def log_of(row: Job) -> str:
    return "".join(row.logs.order_by("pk").values_list("text", flat=True))


@pytest.mark.parametrize("before", [0, 1, 600_000, LOG_MAX])
@pytest.mark.parametrize("letter", ["x", "漢"])
def test_a_line_beyond_a_mebibyte_is_cut_and_not_dropped(runner: Runner, letter: str, before: int) -> None:
    @job(name="test.long", retries=0)
    def talk(ctx: Context) -> None:
        if before:
            ctx.log.info("b" * before)
        ctx.log.warning("begins here %s", letter * 2_000_000)
        ctx.log.warning("comes too late")

    (row,) = run(runner, talk.submit().id)

    text = log_of(row)
    assert row.state == "succeeded"
    assert text.endswith("1 MiB of its log]\n")
    assert "comes too late" not in text
    assert LOG_MAX - 3 <= len(text.encode()) <= LOG_MAX + 100
    if before < LOG_MAX:
        assert "begins here " + letter * 1000 in text


@pytest.mark.parametrize(
    ("message", "args", "kept"),
    [
        ("%d items", ("many",), "%d items (its arguments do not fit: 'many')"),
        ("%s and %s", ("one",), "%s and %s (its arguments do not fit: 'one')"),
        ("none", ("one", 2), "none (its arguments do not fit: 'one', 2)"),
        ("100%", (1,), "100% (its arguments do not fit: 1)"),
        ("%(name)s", ({"nmae": 1},), "%(name)s (its arguments do not fit: {'nmae': 1})"),
        ("here: %s", (Tangled(),), "here: %s (its arguments do not fit: that Tangled)"),
        (Tangled(), (), "that Tangled"),
    ],
)
def test_a_call_with_wrong_arguments_is_kept_as_it_can_be(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, message: Any, args: tuple[Any, ...], kept: str
) -> None:
    @job(name="test.wrong", retries=0)
    def talk(ctx: Context) -> None:
        ctx.log.warning(message, *args)
        ctx.log.info("and goes on")

    row = run_as_in_a_worker(runner, talk.submit().id, monkeypatch)

    lines = log_of(row).splitlines()
    assert row.state == "succeeded"
    assert len(lines) == 2
    assert lines[0].endswith(kept)
    assert " WARNING " in lines[0]
    assert lines[1].endswith("and goes on")


def test_the_traceback_stays_with_a_call_whose_arguments_are_wrong(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="test.traced", retries=0)
    def talk(ctx: Context) -> None:
        try:
            raise LookupError("the reason")
        except LookupError:
            logging.getLogger("some.library").exception("%d items", "many")

    row = run_as_in_a_worker(runner, talk.submit().id, monkeypatch)

    text = log_of(row)
    assert "%d items (its arguments do not fit: 'many')" in text
    assert "LookupError: the reason" in text
