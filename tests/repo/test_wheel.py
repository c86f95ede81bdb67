"""The wheel for other projects: what is in it, what it asks for, and one job in an environment that has nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import global_settings
from packaging.requirements import Requirement

from esteira.defaults import DEFAULTS, PREFIX
from tests.repo.test_env_example import read_by_settings
from tests.repo.tree import dotted, files, modules, text, tree_of
from tests.support.another_project import AnotherProject, build
from tests.support.servers import SuiteServers
from tests.support.waiting import until

APPS = ("esteira", "esteira_web")
PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
#: Modules for one program, which a project has if it uses them: a server, pytest.
ONLY_WITH = {
    Path("esteira_web/server/connections.py"): {"gunicorn"},
    Path("esteira/testing/plugin.py"): {"pytest"},
}
#: The defaults of a clone that differ from those of another project: it has a Redis, a folder and a package of its own.
OF_A_CLONE = {
    "REDIS_URL",
    "REDIS_PREFIX",
    "JOB_PACKAGES",
    "RUN_DIR",
    "DATA_DIR",
    "MANAGE_COMMAND",
    "MIGRATE_COMMAND",
}
#: Read only if a project has them: the usual name of Celery's broker, and of the project with the demonstration's jobs.
ASKED_FOR = {"CELERY_BROKER_URL", "EMAIL_URL"}
SETTINGS = """
import os

SECRET_KEY = "only-for-this-test"
USE_TZ = True
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "letters",
    "esteira",
    "esteira_web",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
PARTS = ("NAME", "USER", "PASSWORD", "HOST", "PORT")
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **{part: os.environ[part] for part in PARTS}}}
ESTEIRA_REDIS_URL = os.environ["REDIS"]
"""
FILES = {
    "settings.py": SETTINGS,
    "urls.py": 'from django.urls import include, path\n\nurlpatterns = [path("jobs/", include("esteira_web.urls"))]\n',
    "app.py": 'from celery import Celery\n\nfrom esteira.celery_settings import configure\n\napp = Celery("mini")\n'
    "configure(app)\napp.autodiscover_tasks()\n",
    "letters/__init__.py": "",
    "letters/jobs.py": "from esteira import Context, job\n\n\n@job(retries=0)\ndef write(ctx: Context, to: str) -> str:\n"
    '    """Write a letter."""\n    return f"Dear {to}"\n',
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_every_file_of_the_two_apps_and_no_other(wheel: Path) -> None:
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    about = {name for name in names if name.parts[0].endswith(".dist-info")}

    assert names - about == {path for path in files() if path.parts[0] in APPS}
    assert {name.name for name in about} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


def test_all_that_the_two_apps_import_is_asked_for() -> None:
    """Also where a package comes with another today: that one may leave it out tomorrow."""
    names = importlib.metadata.packages_distributions()
    asked = {_plain(Requirement(one).name) for one in PROJECT["dependencies"]}
    comes_with = {"kombu": "celery", "billiard": "celery", "click": "celery", "pydantic-core": "pydantic"}

    missing = {
        f"{path}: {top}"
        for path in modules(*APPS)
        for top in _imported(path) - {*APPS, *sys.stdlib_module_names} - ONLY_WITH.get(path, set())
        if not {comes_with.get(_plain(name), _plain(name)) for name in names.get(top, [top])} & asked
    }

    assert not missing


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(tree_of(path)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {
        name.split(".")[0]
        for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    }


def test_every_setting_that_the_apps_read_is_django_s_or_has_a_default() -> None:
    known = {"ROOT_URLCONF", *dir(global_settings), *ASKED_FOR, *(PREFIX + name for name in DEFAULTS)}

    unknown = {f"{path}: {name}" for path, name in _read_in(*APPS) if name not in known and name.isupper()}

    assert not unknown


def test_no_setting_of_esteira_is_read_or_set_without_its_prefix() -> None:
    bare = {
        f"{path}: {name}"
        for path, name in _read_in("project", "tests", "bench", "services")
        if name in DEFAULTS
    }

    assert not bare


def _read_in(*tops: str) -> Iterator[tuple[Path, str]]:
    """Yield each `settings.NAME`, and each `getattr(settings, "NAME")`, with its module."""
    for path in modules(*tops):
        nodes = list(ast.walk(tree_of(path)))
        called = {"settings", *(alias.asname for node in nodes for alias in _from_django(node))}
        for node in nodes:
            if isinstance(node, ast.Attribute) and dotted(node.value).rpartition(".")[2] in called:
                yield path, node.attr
            elif isinstance(node, ast.Call) and dotted(node.func) in ("getattr", "setattr"):
                owner, name = [*node.args, None, None][:2]
                if owner is not None and dotted(owner) in called and isinstance(name, ast.Constant):
                    yield path, str(name.value)


def _from_django(node: ast.AST) -> list[ast.alias]:
    """Return the names under which a module imports Django's settings."""
    if not isinstance(node, ast.ImportFrom) or node.module != "django.conf":
        return []
    return [alias for alias in node.names if alias.name == "settings" and alias.asname]


def test_a_clone_has_the_same_defaults() -> None:
    clone = dict(read_by_settings())

    for name in sorted(set(DEFAULTS) & set(clone) - OF_A_CLONE):
        value = DEFAULTS[name]
        written = (
            ",".join(value)
            if isinstance(value, tuple)
            else f"{value or ''}"
            if value is False
            else f"{value}"
        )
        assert clone[name] == written, name


def test_the_page_lists_every_setting_with_its_default() -> None:
    rows = re.findall(
        rf"^\| `{PREFIX}(\w+)` \| (.+?) \|", text("docs/adding-esteira-to-a-project.md"), re.MULTILINE
    )
    special = {
        "REDIS_URL": "none",
        "RUN_DIR": "in the temporary folder",
        "DATA_DIR": "in the temporary folder",
    }

    assert dict(rows) == {name: special.get(name, as_written(value)) for name, value in DEFAULTS.items()}


def as_written(value: object) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value)
        if isinstance(value, bool) or value
        else "empty"
    )


@pytest.fixture(scope="module")
def mini(
    wheel: Path, servers: SuiteServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnotherProject]:
    """The smallest project: settings that Django needs, two apps, one address of Redis, one job type."""
    folder = tmp_path_factory.mktemp("other") / "mini"
    project = AnotherProject(folder, servers)
    project = AnotherProject(
        folder,
        servers,
        DJANGO_SETTINGS_MODULE="settings",
        PYTHONPATH=str(folder),
        REDIS=f"{servers.valkey.url.rpartition('/')[0]}/7",
        **project.database_parts,
    )
    try:
        project.create()
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        project.install(str(wheel))
        yield project
    finally:
        project.remove()


def test_an_environment_with_the_wheel_alone_imports_both_apps(mini: AnotherProject) -> None:
    lines = "import esteira, esteira_web, importlib.util as u; print(esteira.__file__)\n"
    lines += (
        "print([n for n in ('project', 'jobs', 'gunicorn', 'environ', 'PIL', 'tests') if u.find_spec(n)])"
    )

    said = mini.type(f'python -c "{lines}"').splitlines()

    assert said[0].startswith(str(mini.venv))
    assert said[1] == "[]"


def test_the_apps_are_checked_and_migrated_there_and_run_a_job(mini: AnotherProject) -> None:
    checked = mini.type("django-admin check --fail-level WARNING")
    mini.type("django-admin migrate --verbosity 0")
    mini.type("django-admin makemigrations --check --dry-run")
    with mini.running("celery -A app worker -l info -c 1", "worker") as log:
        until(lambda: "ready." in log.read_text(), "the worker is ready", timeout=60)
        said = mini.type("django-admin jobs submit letters.write to=Ana --wait")

    assert "no issues" in checked
    assert "Dear Ana" in said
