"""The demo jobs fail, stall and recover exactly as they say."""

from __future__ import annotations

import pytest

from esteira import Cancelled, GiveUp, LocalContext
from esteira.errors import InvalidParameters
from jobs import demo


def test_greet_says_hello_to_a_name_in_any_script():
    assert demo.greet.run(name="Zoë 李") == {"text": "Hello Zoë 李"}


@pytest.mark.parametrize("name", ["", "x" * 81, None, 7, ["Ana"]])
def test_greet_refuses_what_is_no_name(name):
    with pytest.raises(InvalidParameters, match="#/params/name"):
        demo.greet.run(name=name)


def test_flaky_fails_twice_and_then_succeeds():
    for try_number in (1, 2):
        with pytest.raises(ConnectionError, match=f"failure {try_number} of 2"):
            demo.flaky.run_with(LocalContext(attempt=try_number, try_number=try_number))

    assert demo.flaky.run_with(LocalContext(attempt=3, try_number=3)) == {"text": "succeeded at try 3"}


def test_flaky_counts_tries_and_not_attempts():
    """A worker that died costs an attempt and no try."""
    ctx = LocalContext(attempt=5, try_number=1)

    with pytest.raises(ConnectionError):
        demo.flaky.run_with(ctx)


def test_flaky_has_tries_enough_for_its_default():
    assert demo.flaky.retries >= 2


def test_failing_gives_up_with_the_reason_it_was_given():
    with pytest.raises(GiveUp, match="the disk is on fire"):
        demo.failing.run(reason="the disk is on fire")


def test_slow_takes_its_time_and_reports_progress():
    ctx = LocalContext()

    result = demo.slow.run_with(ctx, seconds=0.3, steps=3)

    assert result["steps"] == 3
    assert 0.3 <= result["seconds"] < 5
    assert ctx.progress_calls[0] == (0, 3, "Working")
    assert ctx.progress_calls[-1] == (3, 3, "Working")


def test_slow_stops_between_naps_when_cancelled():
    ctx = LocalContext()
    ctx.cancel()

    with pytest.raises(Cancelled):
        demo.slow.run_with(ctx, seconds=3600, steps=1)


@pytest.mark.parametrize("params", [{"seconds": 3601}, {"seconds": -1}, {"seconds": "soon"}, {"steps": 0}])
def test_slow_refuses_what_would_never_end(params):
    with pytest.raises(InvalidParameters):
        demo.slow.run(**params)


def test_a_slow_job_may_run_as_long_as_its_parameters_allow():
    assert demo.slow.timeout_s > 3600


def test_every_parameter_has_a_title_and_a_description():
    for job_type in (demo.greet, demo.flaky, demo.failing, demo.slow):
        for name, described in job_type.schema()["properties"].items():
            assert {"title", "description"} <= described.keys(), f"{job_type.name}: {name}"
