"""What a running job writes changes no indexed column, so it adds nothing to any index (PostgreSQL calls it HOT)."""

from __future__ import annotations

from esteira.db import PrivateConnection
from esteira.record import finish, telling
from tests.support.jobs import running

_UPDATES = """SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'esteira_job'"""


def test_what_a_running_job_writes_adds_nothing_to_an_index(core: PrivateConnection) -> None:
    (job,) = running(core)
    mine = job.id, job.attempt
    with core.transaction():
        ((before, hot_before),) = core.fetch(_UPDATES)

        for number in range(3):
            assert finish.extend(core, [mine])
            assert telling.start(core, *mine, 0.1)
            assert telling.progress(core, *mine, number, 3, "on it")

        ((updates, hot),) = core.fetch(_UPDATES)
    assert updates - before == 9
    assert hot - hot_before == 9
