"""Secret parameters go with the end of their job, whoever ends it and how; a failed or dead one keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from esteira import Context, Secret, job, operate
from esteira.db import DjangoConnection, PrivateConnection
from esteira.errors import SecretsRemoved, StateConflict
from esteira.job_types.registry import registry
from esteira.models import Job
from esteira.record import claim, finish, lease, rescue
from esteira.record import operate as operator
from esteira.record.claim import Claimed
from tests.support.jobs import elapse, outcome, version

pytestmark = pytest.mark.usefixtures("types")
BREAK = lease.Break(reason="broke off", type="ProcessLost", message="gone")


@pytest.fixture
def types(job_types: None, database: None) -> None:
    @job(name="s.send", retries=0)
    def send(ctx: Context, to: str, password: Secret, keys: list[Secret] | None = None) -> None:
        """Send."""

    @job(name="s.open", retries=0)
    def without(ctx: Context, to: str) -> None:
        """Send nothing secret."""


def made(**options: Any) -> UUID:
    return registry.get("s.send").options(**options).submit(to="ana", password="hunter2", keys=["k-1"]).id


def taken(job_id: UUID, db: PrivateConnection) -> Claimed:
    db.fetch("UPDATE esteira_job SET published_at = clock_timestamp() WHERE id = %s", [job_id])
    (claimed,) = claim.claim(db, [job_id], worker="w1/boot", delivery="d1")
    return claimed


def cancelled_while_running(db: PrivateConnection, **options: Any) -> Claimed:
    claimed = taken(made(**options), db)
    operate.cancel(claimed.id, by="test", force=True)
    return claimed


def ended_by(db: PrivateConnection, kind: str) -> UUID:
    claimed = taken(made(), db)
    assert finish.finish(db, [outcome(claimed, kind)])
    return claimed.id


def completed(db: PrivateConnection) -> UUID:
    claimed = taken(made(), db)
    assert finish.complete(db, outcome(claimed))
    return claimed.id


def cancelled_waiting(db: PrivateConnection) -> UUID:
    job_id = made()
    operate.cancel(job_id, by="test")
    return job_id


def of_running(end: Callable[[PrivateConnection, Claimed], Any]) -> Callable[[PrivateConnection], UUID]:
    def ended(db: PrivateConnection) -> UUID:
        claimed = cancelled_while_running(db)
        assert end(db, claimed)
        return claimed.id

    return ended


def lease_ended(db: PrivateConnection, claimed: Claimed) -> Any:
    elapse(db, claimed.id, "lease_until")
    return rescue.leases_ended(db)


def expired_by_keeper(db: PrivateConnection) -> UUID:
    job_id = made(expires_in=0.001)
    db.fetch("SELECT pg_sleep(0.01)")
    assert claim.expire(db)
    return job_id


def expired_at_claim(db: PrivateConnection) -> UUID:
    job_id = made(expires_in=0.001)
    db.fetch("UPDATE esteira_job SET published_at = clock_timestamp() WHERE id = %s", [job_id])
    assert claim.unpublish_unclaimed(db, [job_id]) == 1
    return job_id


def suspected(db: PrivateConnection) -> UUID:
    claimed = taken(made(), db)
    db.fetch("UPDATE esteira_job SET suspicion = 5 WHERE id = %s", [claimed.id])
    assert lease.break_off(db, claimed.id, claimed.attempt, BREAK) == "dead"
    return claimed.id


def refused_for_long(db: PrivateConnection) -> UUID:
    claimed = taken(made(), db)
    db.fetch(
        "UPDATE esteira_job SET refused_since = clock_timestamp() - interval '1 hour' WHERE id = %s",
        [claimed.id],
    )
    assert claim.refuse(db, [(claimed.id, claimed.attempt, "no")], worker="w1")
    return claimed.id


FORGETTING: dict[str, Callable[[PrivateConnection], UUID]] = {
    "finish: succeeded": lambda db: ended_by(db, "succeeded"),
    "complete": completed,
    "finish: cancelled": lambda db: ended_by(db, "cancelled"),
    "finish: failed, cancelled before": of_running(lambda db, c: finish.finish(db, [outcome(c, "failed")])),
    "fail": of_running(lambda db, c: finish.fail(db, outcome(c, "given_up"))),
    "kill": of_running(lambda db, c: lease.kill(db, c.id, c.attempt)),
    "hand_back": of_running(lambda db, c: lease.hand_back(db, [(c.id, c.attempt)])),
    "break_off": of_running(lambda db, c: lease.break_off(db, c.id, c.attempt, BREAK)),
    "leases_ended": of_running(lease_ended),
    "process_lost": of_running(lambda db, c: rescue.process_lost(db, "d1")),
    "process_ended": of_running(lambda db, c: rescue.process_ended(db, "d1")),
    "worker_restarted": of_running(lambda db, c: rescue.worker_restarted(db, incarnation="boot")),
    "drained": of_running(lambda db, c: rescue.drained(db, me="w1/boot")),
    "refuse": of_running(lambda db, c: claim.refuse(db, [(c.id, c.attempt, "no")], worker="w1")),
    "operator: cancelled while waiting": cancelled_waiting,
    "expire": expired_by_keeper,
    "unpublish_unclaimed": expired_at_claim,
}
KEEPING: dict[str, Callable[[PrivateConnection], UUID]] = {
    "finish: failed": lambda db: ended_by(db, "failed"),
    "finish: given up": lambda db: ended_by(db, "given_up"),
    "break_off: dead": suspected,
    "refuse: failed": refused_for_long,
}


@pytest.mark.parametrize("how", FORGETTING)
def test_secrets_go_with_the_end_of_their_job(core: PrivateConnection, how: str) -> None:
    row = Job.objects.get(pk=FORGETTING[how](core))

    assert row.state in ("succeeded", "cancelled", "expired")
    assert row.params == {"to": "ana"}
    text = core.fetch("SELECT to_jsonb(j)::text FROM esteira_job j WHERE id = %s", [row.pk])[0][0]
    assert "hunter2" not in text
    assert "k-1" not in text


@pytest.mark.parametrize("how", KEEPING)
def test_a_failed_or_dead_job_keeps_them_for_a_retry(core: PrivateConnection, how: str) -> None:
    job_id = KEEPING[how](core)
    before = Job.objects.get(pk=job_id)

    operate.retry(job_id, by="test")

    assert before.state in ("failed", "dead")
    assert (before.params["password"], before.params["keys"]) == ("hunter2", ["k-1"])
    assert Job.objects.get(pk=job_id).state == "queued"


@pytest.mark.parametrize("how", ["operator: cancelled while waiting", "expire"])
def test_a_retry_without_its_secrets_is_refused_and_says_so(core: PrivateConnection, how: str) -> None:
    job_id = FORGETTING[how](core)
    before = version(core, job_id)

    with pytest.raises(SecretsRemoved, match="secret parameters were removed"):
        operate.retry(job_id, by="test")

    assert version(core, job_id) == before
    assert operator.retry(DjangoConnection(), job_id, by="test") in ("cancelled", "expired")
    assert Job.objects.get(pk=job_id).state in ("cancelled", "expired")
    assert issubclass(SecretsRemoved, StateConflict)


def test_a_job_without_secrets_is_retried_as_ever_and_stores_no_names(core: PrivateConnection) -> None:
    job_id = registry.get("s.open").submit(to="ana").id
    operate.cancel(job_id, by="test")

    operate.retry(job_id, by="test")

    row = Job.objects.get(pk=job_id)
    assert (row.state, row.params, row.secret_names) == ("queued", {"to": "ana"}, None)


def test_every_end_of_the_state_machine_is_tried_here() -> None:
    """A writer that ends jobs and is not in these tables would go untested."""
    named = {name.partition(":")[0] for name in (*FORGETTING, *KEEPING)}
    modules = (finish, lease, claim, rescue, operator)
    writers = {
        name
        for module in modules
        for name, thing in vars(module).items()
        if callable(thing)
        and getattr(thing, "__module__", "") == module.__name__
        and not name.startswith("_")
        and isinstance(thing, type(made))
    }
    no_end = {
        "claim",
        "extend",
        "still_mine",
        "what_became",
        "could_extend",
        "claimed",
        "leases",
        "forgot_secrets",
    }

    assert writers - no_end - {"cancel", "retry"} <= named | {"operator"}
