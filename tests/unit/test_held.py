"""How far a job has come in its pool process: which phase follows which, and what is kept of its outcome."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from esteira.ids import uuid7
from esteira.record.claim import Claimed
from esteira.record.finish import Break, Outcome
from esteira.runner.held import CUT, LOG_MAX, Ending, HandBack, Held, HeldJobs, Phase


def claimed() -> Claimed:
    return Claimed(
        id=uuid7(),
        attempt=1,
        failures=0,
        max_failures=4,
        type="t.held",
        queue="default",
        params="{}",
        timeout_s=60,
        lease_s=10,
        backoff_s=1,
        cancelled=False,
        place=1,
    )


def begun(n: int = 1) -> HeldJobs:
    jobs = HeldJobs()
    jobs.begin([claimed() for _ in range(n)])
    return jobs


def taken(jobs: HeldJobs) -> Held:
    held = jobs.take()
    assert held is not None
    return held


def outcome(held: Held) -> Outcome:
    return Outcome(id=held.job.id, attempt=1, kind="succeeded", started_s=0, ended_s=1)


CAUSE = Break(reason="connection lost", type="ConnectionLost", message="It was cut.")
ENDINGS: list[Callable[[Held], Ending]] = [outcome, lambda _: CAUSE, lambda _: HandBack()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_outcome_is_kept_under_its_lease_until_it_is_written(ending: Callable[[Held], Ending]) -> None:
    jobs = begun()
    held = taken(jobs)
    assert held.phase is Phase.RUNNING

    jobs.end(held, ending(held))
    assert (held.phase, jobs.leased(), jobs.running) == (Phase.DONE, [held], None)

    pending = jobs.collect(running_too=False)
    jobs.put_back(pending)  # nothing of it could be written
    assert (pending.over, jobs.leased(), jobs.pending()) == ([held], [held], True)

    pending = jobs.collect(running_too=False)
    held.outcome = None  # it is written
    jobs.put_back(pending)
    assert not jobs.busy()


@pytest.mark.parametrize("ending", [*ENDINGS, lambda _: None])
@pytest.mark.parametrize("commit_is_known", [True, False])
def test_a_completion_has_recorded_its_outcome_whatever_follows(
    ending: Callable[[Held], Any], commit_is_known: bool
) -> None:
    jobs = begun()
    held = taken(jobs)
    held.begin_commit()
    if commit_is_known:
        held.end_commit(committed=True)
    jobs.lose([held])

    assert held.has_completed
    assert jobs.busy(), "its function still runs, and has a time limit"
    assert jobs.leased() == []
    jobs.end(held, ending(held))
    assert (held.outcome, jobs.busy()) == (None, False)


def test_a_commit_that_failed_lets_the_function_go_on() -> None:
    jobs = begun()
    held = taken(jobs)
    held.begin_commit()
    held.end_commit(committed=False)

    assert held.phase is Phase.RUNNING
    jobs.end(held, CAUSE)
    assert held.outcome is CAUSE


def test_a_job_that_is_lost_before_its_turn_never_runs() -> None:
    jobs = begun(3)
    first, second, third = jobs.leased()

    jobs.lose([second])

    assert (taken(jobs), taken(jobs), jobs.take()) == (first, third, None)
    assert second.phase is Phase.LOST


def test_a_job_that_is_lost_while_it_runs_stays_lost_until_its_function_returns() -> None:
    jobs = begun()
    held = taken(jobs)

    jobs.lose([held])
    held.end_commit(committed=False)  # a completion that the server refused

    assert held.phase is Phase.LOST
    jobs.end(held, outcome(held))
    assert held.outcome is not None, "that it came too late is to be noted"


def test_what_has_not_started_is_handed_back_and_nothing_else() -> None:
    jobs = begun(3)
    running = taken(jobs)

    jobs.hand_back_waiting()

    assert jobs.take() is None
    over = jobs.collect(running_too=False).over
    assert [(held.phase, held.outcome) for held in over] == [(Phase.DONE, HandBack())] * 2
    assert running.phase is Phase.RUNNING


def test_what_a_job_said_is_kept_though_it_has_no_outcome() -> None:
    jobs = begun()
    held = taken(jobs)
    held.say("a line\n")
    jobs.end(held, None)

    pending = jobs.collect(running_too=False)

    assert pending.logs == [(held, "a line\n")]
    jobs.put_back(pending)
    assert jobs.pending(), "its log could not be written"


def traced(function: Callable[..., Any], at: int, act: Callable[[], object]) -> Callable[[], bool]:
    """Act at one step of a function's next calls; what is returned ends that, and says whether it came so far."""
    steps = itertools.count()

    def step(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == at:
            act()
        return step

    def end() -> bool:
        sys.settrace(None)
        return next(steps) > at

    sys.settrace(lambda frame, *_: step if frame.f_code is function.__code__ else None)
    return end


def said_while_collected(line: str, at: int) -> tuple[str, bool]:
    """Let a job log a line, and its pool process take the log at one step of that; return all, and whether it did."""
    jobs, found = begun(), list[str]()
    held = taken(jobs)
    held.say("before\n")

    def collect() -> None:
        found.extend(text for _, text in jobs.collect(running_too=True).logs)

    end = traced(Held.say, at, collect)
    held.say(line)
    done = end()
    collect()
    return "".join(found), done


@pytest.mark.parametrize("line", ["short\n", "x" * (LOG_MAX + 1)], ids=["short", "cut"])
def test_no_line_of_a_log_is_lost_whenever_the_heartbeat_takes_what_there_is(line: str) -> None:
    at, kept, done = 0, "", True
    while done:
        kept, done = said_while_collected(line, at)
        room = LOG_MAX - len("before\n")
        assert kept == "before\n" + (line if len(line) <= room else line[:room] + CUT), f"at step {at}"
        at += 1
    assert at > 10


@pytest.mark.parametrize("function", [HeldJobs.collect, Held.take_progress], ids=lambda one: one.__name__)
def test_the_last_progress_is_not_lost_whenever_it_is_said(function: Callable[..., Any]) -> None:
    at, done = 0, True
    while done:
        jobs = begun()
        held = taken(jobs)
        held.progress.append((1, 2, "half"))

        end = traced(function, at, lambda held=held: held.progress.append((2, 2, "all")))  # type: ignore[misc]
        found = jobs.collect(running_too=True).progress
        done = end()
        found += jobs.collect(running_too=True).progress

        assert not done or found[-1][1] == (2, 2, "all"), f"at step {at}"
        at += 1
    assert at > 10
