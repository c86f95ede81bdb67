"""`jobs check`: each rule of the promise finds a row that breaks it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.promise import PROMISES, broken
from esteira.runner.runner import Runner
from tests.support.jobs import accepted_earlier
from tests.support.jobs_command import jobs
from tests.support.run_hints import run

pytestmark = pytest.mark.usefixtures("database", "job_types")

EVENT = """INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
  SELECT id, clock_timestamp(), {kind}, {attempt}, '', '', '{{}}' FROM esteira_job WHERE id = %(id)s"""
#: What breaks each rule, as nothing of Esteira does: past its triggers.
BREAKS = {
    "An attempt ends at most once.": [EVENT.format(kind="'dead'", attempt="attempt")],
    "Attempt numbers only rise, and no event names an attempt that never existed.": [
        EVENT.format(kind="'rescued'", attempt="attempt + 1")
    ],
    "A job leaves an end state only by an operator's retry.": [
        EVENT.format(kind="'dead'", attempt="0"),
        EVENT.format(kind="'failed'", attempt="0"),
    ],
    "Files are attached by the attempt that succeeded, and by no other.": [
        """INSERT INTO esteira_file (id, job_id, name, content_type, size, sha256, attempt, created_at, attached_at)
           SELECT gen_random_uuid(), id, 'a', 'text/plain', 0, '', attempt + 1, clock_timestamp(), clock_timestamp()
           FROM esteira_job WHERE id = %(id)s"""
    ],
    "The times of an attempt are in order.": [
        "UPDATE esteira_job SET claimed_at = started_at + interval '1 s' WHERE id = %(id)s"
    ],
    PROMISES[4].rule: ["UPDATE esteira_job SET suspicion = 99 WHERE id = %(id)s"],
    PROMISES[7].rule: [
        """UPDATE esteira_job SET state = 'running', worker = 'w1@x', finished_at = NULL, result = NULL,
             lease_until = clock_timestamp() - interval '1 h' WHERE id = %(id)s"""
    ],
}


def ended(runner: Runner) -> Any:
    """Run a job that succeeds and one that fails, and return the first."""

    @job(name="test.succeeds")
    def succeeds(ctx: Context) -> None: ...

    @job(name="test.fails", retries=0)
    def fails(ctx: Context) -> None:
        raise ValueError

    answer = succeeds.submit()
    run(runner, answer.id, fails.submit().id)
    return answer


def break_it(core: PrivateConnection, statements: list[str], job_id: Any) -> None:
    with core.transaction():
        core.fetch("SET LOCAL session_replication_role = replica")
        for statement in statements:
            core.fetch(statement, {"id": job_id})


def test_what_ran_breaks_no_rule(runner: Runner, core: PrivateConnection) -> None:
    ended(runner)

    assert [rows for _, rows in broken(core)] == [[]] * len(PROMISES)
    said = jobs("check")
    assert (said.code, said.out.count("✓"), said.out.count("✗")) == (0, len(PROMISES), 0)


@pytest.mark.parametrize("rule", BREAKS)
def test_what_breaks_a_rule_is_found(runner: Runner, core: PrivateConnection, rule: str) -> None:
    answer = ended(runner)

    break_it(core, BREAKS[rule], answer.id)

    found = {one.rule: [row[0] for row in rows] for one, rows in broken(core) if rows}
    assert found == {rule: [answer.id]}
    said = jobs("check", "--json")
    assert said.code == 1
    assert [one["rule"] for one in said.data if not one["kept"]] == [rule]
    assert str(answer.id) in jobs("check", "--all").out


def test_a_tick_with_a_job_and_a_skip_is_found(runner: Runner, core: PrivateConnection) -> None:
    answer = ended(runner)
    break_it(
        core,
        [
            "UPDATE esteira_job SET schedule_id = 7, tick_at = clock_timestamp() WHERE id = %(id)s",
            """INSERT INTO esteira_scheduleskip (schedule_id, tick_at, reason)
               SELECT schedule_id, tick_at, 'overlap' FROM esteira_job WHERE id = %(id)s""",
        ],
        answer.id,
    )

    assert [one.rule for one, rows in broken(core) if rows] == [PROMISES[3].rule]


def test_older_jobs_are_left_out_unless_all_are_asked_for(runner: Runner, core: PrivateConnection) -> None:
    answer = ended(runner)
    break_it(core, BREAKS["The times of an attempt are in order."], answer.id)
    job_id = accepted_earlier(core, answer.id, 3 * 86400)
    break_it(
        core, ["UPDATE esteira_job SET claimed_at = started_at + interval '1 s' WHERE id = %(id)s"], job_id
    )

    assert jobs("check").code == 0
    assert jobs("check", "--since", "4d").code == 1
    assert jobs("check", "--all").code == 1
