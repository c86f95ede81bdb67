"""Remote control: what only reads is answered, what steers a worker is refused with a sentence."""

from __future__ import annotations

import pytest
from celery.worker.control import Panel, control_command, inspect_command

from esteira.worker.steering import allowed, limit_remote_control

#: What Flower and `celery inspect` ask.
READ = {
    "ping", "stats", "active", "reserved", "scheduled", "revoked", "registered", "active_queues", "conf", "report",
    "query_task", "clock", "enable_events", "heartbeat", "dump_active", "dump_conf", "dump_reserved", "dump_schedule",
    "dump_revoked", "dump_tasks",
}  # fmt: skip
#: What changes a worker, writes files, or holds up its loop.
STEERED = {
    "shutdown", "revoke", "revoke_by_stamped_headers", "terminate", "rate_limit", "time_limit", "pool_grow",
    "pool_shrink", "pool_restart", "autoscale", "add_consumer", "cancel_consumer", "disable_events", "election",
    "hello", "objgraph", "memdump", "memsample",
}  # fmt: skip


def test_every_command_of_celery_is_judged() -> None:
    assert set(Panel.data) == READ | STEERED


@pytest.mark.parametrize("name", sorted(READ))
def test_what_reads_is_answered_by_celery(name: str) -> None:
    assert allowed(Panel.data)[name] is Panel.data[name]


@pytest.mark.parametrize("name", sorted(STEERED))
def test_what_steers_is_refused_with_the_way_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = allowed(Panel.data)[name]

    answers = [handler(None, queue="default", task_id="x", n=9) for _ in range(3)]

    assert {next(iter(answer)) for answer in answers} == {"error"}
    assert name in answers[0]["error"] and "CELERY_CONTROL=all" in answers[0]["error"]
    assert len(caplog.records) == 1


def test_a_project_s_own_commands_are_judged_by_what_they_were_declared_as() -> None:
    @inspect_command(name="our_look", alias="dump_our_look")
    def our_look(state: object) -> str:
        return "seen"

    @control_command(name="our_steer")
    def our_steer(state: object) -> str:
        return "done"

    try:
        handlers = allowed(Panel.data)
        assert handlers["our_look"](None) == handlers["dump_our_look"](None) == "seen"
        assert "error" in handlers["our_steer"](None)
    finally:
        for name in ("our_look", "dump_our_look", "our_steer"):
            Panel.data.pop(name)
            Panel.meta.pop(name, None)


def test_a_worker_that_may_be_steered_keeps_celery_s_own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Panel.data
    monkeypatch.setattr(Panel, "data", before)

    limit_remote_control("all")
    assert Panel.data is before

    limit_remote_control("read")
    assert "error" in Panel.data["shutdown"](None)
