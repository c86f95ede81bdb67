"""What every test may ask for: an empty database, Redis, waiting without sleeping.

No test is wrapped in a transaction: the code under test uses several connections and processes, and all must
see the same rows. `database`, and pytest-django's own marks and fixtures alike, give the migrated database
emptied just before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
import hypothesis
import pytest
import redis as redis_client
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from esteira.job_types.registry import registry
from tests.support import compose_stack, kubectl, recovery, xdist_groups
from tests.support.kubernetes_stack import BUILT
from tests.support.remote_stack import RemoteStack
from tests.support.servers import SuiteServers
from tests.support.shared_stacks import take_down_unused

if settings.configured:
    raise pytest.UsageError(
        "Django was set up before the suite chose its database: unset DJANGO_SETTINGS_MODULE."
    )

SERVERS = SuiteServers()
SERVERS.settle_environment()

hypothesis.settings.register_profile("esteira", deadline=None, print_blob=True)
hypothesis.settings.load_profile("esteira")


def pytest_configure(config: pytest.Config) -> None:
    """Set Django up, and end a terminated run like an interrupted one: the servers are stopped too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell lets what it starts in the background ignore SIGINT, and programs that tests start inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    django.setup()
    if config.getoption("numprocesses", 0):
        # The processes that run the tests start with this environment, and each chooses a database of its own.
        del os.environ["DJANGO_SETTINGS_MODULE"]


TESTS = Path(__file__).parent
#: Another project, with tests of its own; tests/integration/test_existing_project.py runs them.
collect_ignore = ["existing"]
LEFT_OUT = pytest.StashKey[list[str]]()
LACKS = pytest.StashKey[str]()


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the tests of some folders need beside Python: their mark, whether it is there, and how to get it.

    Where nobody asks for it, and it is not there, the tests are left out; where somebody does, they fail.
    """

    mark: str
    folders: Sequence[str]
    is_there: Callable[[], bool]
    asked_for_by: Sequence[str]  # variables of the environment, one of which is enough
    what: str
    how: str

    def has(self, item: pytest.Item) -> bool:
        return any(item.path.is_relative_to(TESTS / folder) for folder in self.folders)


NEEDS = (
    Need(
        mark="containers",
        folders=["e2e", "chaos/containers", "chaos/kubernetes"],
        is_there=compose_stack.engine_answers,
        asked_for_by=["CI"],
        what=compose_stack.ENGINE,
        how=compose_stack.HOW_TO_GET_ONE,
    ),
    Need(
        mark="cluster",
        folders=["e2e/kubernetes", "chaos/kubernetes"],
        is_there=lambda: kubectl.is_coming() or kubectl.cluster_answers(),
        asked_for_by=["CI", "TEST_KUBECONFIG"],
        what=kubectl.CLUSTER,
        how=kubectl.HOW_TO_GET_ONE,
    ),
)


#: Marks that a run may leave out by `-m "not …"`, and the targets that run those tests.
RUN_BY = {
    "slow": "`make test` runs them",
    "long": "`make kills`, `make chaos-compose` and `make chaos-k8s` run them",
}


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark the tests that need more than Python; where it is not there leave them out, or fail if this is CI.

    Those that share something of the machine stay together, folder by folder: a cluster has room for one at a time.
    """
    for item in items:
        for need in NEEDS:
            if need.has(item):
                item.add_marker(need.mark)
    collected = list(items)
    yield
    left_out = config.stash.setdefault(LEFT_OUT, [])
    if not config.option.keyword:  # which leaves out others too, and one list is all that pytest gives
        left_out += _left_out_by_mark(config.option.markexpr, collected, items)
    for need in NEEDS:
        needy = [item for item in items if item.get_closest_marker(need.mark)]
        if not needy or need.is_there():
            continue
        if any(map(os.environ.get, need.asked_for_by)):
            for item in needy:
                item.stash[LACKS] = f"This test needs {need.what}, and none answers: {need.how}."
            continue
        left_out.append(f"Left out: {len(needy)} tests that need {need.what}; {need.how}.")
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]
    items.sort(key=lambda item: (xdist_groups.place(item.path), _folder_on_the_cluster(item)))


def _left_out_by_mark(
    expression: str, collected: Sequence[pytest.Item], kept: Sequence[pytest.Item]
) -> Iterator[str]:
    gone = set(collected) - set(kept)
    for mark, targets in RUN_BY.items():
        many = sum(item.get_closest_marker(mark) is not None for item in gone)
        if many and f"not {mark}" in expression:
            yield f"Left out: {many} tests marked {mark}; {targets}."


def _folder_on_the_cluster(item: pytest.Item) -> str:
    return str(item.path.parent) if item.get_closest_marker("cluster") else ""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> xdist_groups.GroupScheduling:
    return xdist_groups.GroupScheduling(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints the summary what this one has left out; see `pytest_testnodedown`."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left out"] = session.config.stash.get(LEFT_OUT, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    left_out = getattr(node, "workeroutput", {}).get("left out", [])
    node.config.stash[LEFT_OUT] = left_out or node.config.stash.get(LEFT_OUT, [])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if sentence := item.stash.get(LACKS, ""):
        pytest.fail(sentence, pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    take_down_unused(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what the parts of its stacks look like and have written last."""
    report = yield
    if report.failed:
        stacks = {one for one in getattr(item, "funcargs", {}).values() if isinstance(one, RemoteStack)}
        report.sections += [section for stack in stacks for section in stack.last_words().items()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := recovery.table(report for reports in terminalreporter.stats.values() for report in reports):
        terminalreporter.section("recovery, in seconds")
        terminalreporter.write("\n".join([*lines, ""]))
    for sentence in config.stash.get(LEFT_OUT, []):
        terminalreporter.line(sentence)


@pytest.fixture(scope="session")
def images() -> None:
    """The images of the stack, built from this checkout."""
    compose_stack.build_images()


@pytest.fixture(scope="session")
def loaded_images(images: None) -> None:
    """The same in the cluster, once it is there."""
    kubectl.wait_for_it()
    kubectl.load(*compose_stack.named_as_in_manifests(*BUILT))


def pytest_unconfigure(config: pytest.Config) -> None:
    SERVERS.stop()


@pytest.fixture(scope="session")
def servers() -> SuiteServers:
    """The suite's PostgreSQL and Valkey, running."""
    SERVERS.start()
    return SERVERS


@pytest.fixture(scope="session")
def django_db_setup(servers: SuiteServers, django_db_blocker: Any) -> None:
    """Migrate once; pytest-django would make a second database that no other process knows."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture
def database(django_db_setup: None, django_db_blocker: Any, servers: SuiteServers) -> Iterator[None]:
    """A migrated database without data, and an empty Redis."""
    with django_db_blocker.unblock():
        _empty_tables()
        with redis_client.Redis.from_url(servers.valkey.url) as client:
            client.flushall()
        yield
        connection.close()


@pytest.fixture
def _django_db_helper(database: None) -> None:
    """Give pytest-django's `db` and `django_db` the same database, without its wrapping transaction."""


@pytest.fixture
def redis(database: None, servers: SuiteServers) -> Iterator[redis_client.Redis]:
    """A client of the suite's Valkey, emptied before the test."""
    with redis_client.Redis.from_url(servers.valkey.url) as client:
        yield client


@pytest.fixture
def job_types() -> Iterator[None]:
    """Forget afterwards which job types a test has declared."""
    before = dict(registry._types)
    yield
    registry._types.clear()
    registry._types.update(before)


# Written by `migrate`, the same for every test.
KEPT_TABLES = {"django_migrations", "django_content_type", "auth_permission"}


def _empty_tables() -> None:
    """Empty every table that has rows, and put the keeper's one row back."""
    assert settings.DATABASES["default"]["PORT"] == SERVERS.postgres.port, "this is not the suite's database"
    with connection.cursor() as cursor:
        tables = [t for t in connection.introspection.table_names(cursor) if t not in KEPT_TABLES]
        cursor.execute(" UNION ALL ".join(f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in tables))
        if filled := [name for (name,) in cursor.fetchall()]:
            # A test that left a transaction open gets an error here, not an endless wait.
            cursor.execute("SET lock_timeout = '20s'")
            cursor.execute(f"TRUNCATE {', '.join(filled)} RESTART IDENTITY CASCADE")
            cursor.execute("RESET lock_timeout")
        cursor.execute("INSERT INTO esteira_keeper (id) VALUES (1) ON CONFLICT DO NOTHING")
