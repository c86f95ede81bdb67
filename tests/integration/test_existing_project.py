"""Esteira is added to another team's project by the lines of its page, used beside that project's Celery, and removed.

The project is tests/existing: its own user model with a UUID and an e-mail address, its own urls, Celery tasks with
chains, chords and retries, and a beat_schedule. It runs outside the clone, with the wheel alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest

from project.local.embedded_server import free_port
from tests.support.another_project import AnotherProject, build
from tests.support.documents import FENCE, printed
from tests.support.forks import ROOT
from tests.support.servers import SuiteServers
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PAGE, TESTING = "docs/adding-esteira-to-a-project.md", "docs/testing-your-jobs.md"
WORKER = "celery -A shop worker -l info -c 2 -Q celery,mail"
OF_MAIL = "celery -A shop worker -l info -c 1 -Q mail -n mail@%h"
ORDER = """
from accounts.models import Customer
from orders.models import Line, Order
from orders.tasks import fulfil
order = Order.objects.create(customer=Customer.objects.get_or_create(email="ana@example.com")[0])
for article, count in [("lamp", 2), ("cup", 5)]:
    Line.objects.create(order=order, article=article, count=count)
fulfil(order)
print(order.pk)
"""
ASK = """
from django.test import Client
from accounts.models import Customer
client = Client()
first = client.get("/")
print(first.status_code, "Content-Security-Policy" in first.headers, "X-Request-ID" in first.headers)
away = client.get("/esteira/")
print(away.status_code, away["Location"], "Content-Security-Policy" in away.headers)
client.force_login(Customer.objects.get(email="ana@example.com"))
print(client.get("/esteira/").status_code)
client.force_login(Customer.objects.get(email="boss@example.com"))
page = client.get("/esteira/")
print(page.status_code, "orders.invoice" in page.text, 'href="/backoffice/"' in page.text, "/assets/esteira_web/style." in page.text)
job = client.get("/esteira/api/v1/jobs").json()["items"][0]
print(job["state"], client.get(f"/esteira/jobs/{job['id']}/").status_code)
wrong = client.get("/esteira/api/v1/nothing")
print(wrong.status_code, wrong["Content-Type"], wrong.json()["type"])
print(client.get("/nothing").status_code, client.get("/backoffice/esteira_web/apitoken/").status_code)
"""


#: Tests that no page shows: with commits, with an error that a job survives, and in a view with ATOMIC_REQUESTS.
COMMITTED = """
import pytest
from accounts.models import Customer
from django.db import IntegrityError, transaction
from esteira import Context, job
from orders.jobs import invoice
from orders.models import Order


@job(name="shop.twice", retries=0)
def twice(ctx: Context) -> str:
    Customer.objects.create(email="one@example.com")
    try:
        Customer.objects.create(email="one@example.com")
    except IntegrityError:
        with ctx.completing() as done:
            done.result = str(Customer.objects.count())
    return "ignored"


@pytest.mark.django_db(transaction=True)
def test_a_job_catches_an_error_of_the_database_and_goes_on(esteira_jobs):
    with esteira_jobs.inline():
        submitted = twice.submit()

    assert esteira_jobs.job(submitted).result == "1"


def test_a_failed_statement_takes_the_attempt_back_and_no_more(esteira_jobs):
    Customer.objects.create(email="one@example.com")
    submitted = twice.submit()

    esteira_jobs.run_due()

    assert esteira_jobs.job(submitted).state == "failed"
    assert Customer.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_job_runs_after_the_commit_of_the_code_that_submits_it(esteira_jobs):
    order = Order.objects.create(customer=Customer.objects.create(email="ana@example.com"))

    with esteira_jobs.inline(), transaction.atomic():
        submitted = invoice.submit(order=order.pk)
        assert esteira_jobs.job(submitted).state == "queued"

    assert esteira_jobs.job(submitted).state == "succeeded"
"""


@pytest.fixture(scope="module")
def shop(servers: SuiteServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnotherProject]:
    """The shop as its team has it: migrated, with one order; and a wheel beside it."""
    folder = tmp_path_factory.mktemp("team") / "shop"
    shutil.copytree(ROOT / "tests/existing", folder, ignore=shutil.ignore_patterns("__pycache__"))
    parts = AnotherProject(folder, servers).database_parts
    named = {f"SHOP_DATABASE_{name}": value for name, value in parts.items() if name != "NAME"}
    redis = f"{servers.valkey.url.rpartition('/')[0]}/8"
    project = AnotherProject(folder, servers, SHOP_DATABASE=parts["NAME"], SHOP_REDIS_URL=redis, **named)
    try:
        project.create()
        project.install("--requirement", "requirements.txt")
        project.type("python manage.py migrate --verbosity 0")
        yield project
    finally:
        project.remove()


def test_the_shop_works_without_esteira(shop: AnotherProject) -> None:
    shop.type("python -m pytest -q -p no:cacheprovider")

    with shop.running(WORKER, "stock-worker"):
        assert placed_and_announced(shop)


def test_esteira_is_added_by_the_lines_of_the_page(shop: AnotherProject) -> None:
    wheel = build(shop.folder.parent / "dist")
    shutil.copy(wheel, shop.folder)

    shop.type(
        printed(
            "docs/adding-esteira-to-a-project.md", "pip install", {"pip install": "uv pip install --quiet"}
        )
    )
    for file in ("shop/settings.py", "shop/celery.py", "shop/urls.py"):
        add(shop, file)
    said = shop.type(printed("docs/adding-esteira-to-a-project.md", "python manage.py check"))

    assert "esteira_web.0001_first... OK" in said
    assert added_lines(shop) == 5
    assert shop.rows("SELECT count(*) FROM accounts_customer") == [(1,)], "its own rows are as they were"


def test_its_celery_runs_its_tasks_and_a_job_of_its_own(shop: AnotherProject) -> None:
    add(shop, "orders/jobs.py")
    shop.type("python manage.py check --fail-level WARNING")
    boss = "from accounts.models import Customer; Customer.objects.create_superuser('boss@example.com', 'x')"
    shop.type(f'python manage.py shell -v 0 -c "{boss}"')

    worker = f"{printed('docs/adding-esteira-to-a-project.md', 'celery -A shop worker').strip()} -c 2"
    keeper = printed("docs/adding-esteira-to-a-project.md", "celery -A shop beat -l info -S esteira").strip()
    with (
        shop.running(worker, "worker") as log,
        shop.running(OF_MAIL, "mail"),
        shop.running(keeper, "keeper") as keeper_log,
        shop.running("celery -A shop beat -l info", "beat"),
    ):
        until(lambda: "ready." in log.read_text(), "the worker is ready", timeout=60)
        said = shop.type(printed("docs/adding-esteira-to-a-project.md", "python manage.py jobs submit"))
        assert placed_and_announced(shop)
        until(lambda: shop.rows("SELECT 1 FROM orders_count"), "its own beat counts open orders", timeout=60)
        until(lambda: alive(shop, "beat.ready"), "the keeper is ready", timeout=60)
        assert "not the 2 entries of beat_schedule" in keeper_log.read_text()

    assert "000001" in said
    assert shop.rows("SELECT state FROM orders_order WHERE id = 1") == [("invoiced",)]
    assert shop.rows("SELECT type, state FROM esteira_job") == [("orders.invoice", "succeeded")]


def test_its_pages_stay_its_own_and_esteira_s_are_below_theirs(shop: AnotherProject) -> None:
    shop.type("python manage.py collectstatic --no-input --verbosity 0")
    (shop.folder / "ask.py").write_text(ASK)

    said = shop.type("python manage.py shell -v 0 < ask.py").splitlines()

    assert said == [
        "200 False False",
        "302 /login?next=/esteira/ True",
        "403",
        "200 True True True",
        "succeeded 200",
        "404 application/problem+json /esteira/problems/not-found",
        "404 200",
    ]


def test_advice_names_what_this_project_has(shop: AnotherProject) -> None:
    said = shop.type("SHOP_DATABASE_PORT=1 python manage.py migrate 2>&1 || true")

    assert "Check that it runs, and that DATABASES names it." in said


def test_a_user_of_its_own_model_gets_a_token(shop: AnotherProject) -> None:
    said = shop.type(
        printed("docs/adding-esteira-to-a-project.md", "python manage.py jobs token shop-frontend")
    )

    assert said.startswith("esteira_")
    assert shop.rows(
        "SELECT u.email FROM esteira_web_apitoken t JOIN accounts_customer u ON u.id = t.user_id"
    ) == [("ana@example.com",)]


def test_its_tests_run_jobs_by_the_examples_of_the_page(shop: AnotherProject) -> None:
    """Without Redis: its address leads nowhere."""
    examples = [lines for kind, lines in FENCE.findall((ROOT / TESTING).read_text()) if kind == "py"]
    (shop.folder / "tests/test_jobs.py").write_text("\n\n".join(examples))
    (shop.folder / "tests/test_committed_jobs.py").write_text(COMMITTED)

    said = shop.type(
        f"SHOP_REDIS_URL=redis://127.0.0.1:{free_port()}/0 python -m pytest -q -p no:cacheprovider tests/test_*jobs.py"
    )

    assert f"{len(re.findall('^def test_', ''.join(examples), re.MULTILINE)) + 3} passed" in said


def test_its_own_tests_pass_as_before(shop: AnotherProject) -> None:
    shop.type("python -m pytest -q -p no:cacheprovider")


def test_esteira_is_removed_by_the_lines_of_the_page(shop: AnotherProject) -> None:
    shop.type(printed("docs/adding-esteira-to-a-project.md", "python manage.py migrate esteira_web zero"))
    for file in ("shop/settings.py", "shop/celery.py", "shop/urls.py"):
        shutil.copy(ROOT / "tests/existing" / file, shop.folder / file)
    (shop.folder / "orders/jobs.py").unlink()

    assert "no issues" in shop.type("python manage.py check")
    assert not shop.rows("SELECT tablename FROM pg_tables WHERE tablename LIKE 'esteira%'")
    with shop.running(WORKER, "stock-worker-again"):
        assert placed_and_announced(shop)


def added_lines(shop: AnotherProject) -> int:
    """Return in how many lines the shop differs from what its team had."""
    old = ROOT / "tests/existing"
    files = [path for path in old.rglob("*.py") if "__pycache__" not in path.parts]
    return sum(
        len(list(filter(None, (shop.folder / path.relative_to(old)).read_text().splitlines())))
        - len(list(filter(None, path.read_text().splitlines())))
        for path in files
    )


def add(shop: AnotherProject, file: str) -> None:
    """Add the lines that the page has for a file at its end."""
    (block,) = [
        lines
        for kind, lines in FENCE.findall((ROOT / PAGE).read_text())
        if kind == "py" and lines.startswith(f"# {file}\n")
    ]
    with (shop.folder / file).open("a") as stream:
        stream.write(f"\n{block.partition(chr(10))[2]}")


def placed_and_announced(shop: AnotherProject) -> bool:
    """Place an order, which a chain with a retry and a chord takes to its end."""
    (shop.folder / "order.py").write_text(ORDER)
    number = shop.type("python manage.py shell -v 0 < order.py").split()[-1]
    ask = (
        f"SELECT parcels FROM orders_order WHERE id = {number} AND state = 'announced' AND payment_tries = 2"
    )
    return until(lambda: shop.rows(ask), "the order is announced", timeout=20) == [(3,)]


def alive(shop: AnotherProject, sign: str) -> bool:
    return any(shop.temporary.glob(f"esteira-*/run/{sign}"))
