"""Examples in the documents work as they stand: commands parse, addresses exist, job types can be declared and run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import load_command_class
from django.core.management.base import CommandParser
from django.urls import resolve

import esteira
from esteira import Context, JobType, job
from esteira.job_types.checking import check
from esteira.job_types.registry import registry
from esteira_web.cli import hints
from tests.repo.test_docs import DOCS, code, typed
from tests.repo.tree import ROOT, text
from tests.support.documents import FENCE

README = Path("README.md")
#: Its job types are those of the shop in tests/existing, to which a test adds them.
ANOTHER_PROJECT = Path("docs/adding-esteira-to-a-project.md")
END_OF_COMMAND = {"&", "&&", "|", ";", ">", ")"}


def jobs_commands(doc: Path) -> list[list[str]]:
    """The words after `manage.py jobs`, or after `manage jobs`, of each command in a document."""
    found = []
    for line in typed(doc):
        for tail in re.findall(r"\bmanage(?:\.py)? jobs (\w[^`)]*)", line):
            # One that stands in a line for another shell ends where that does.
            words = shlex.split(tail.partition("'")[0] if tail.count("'") % 2 else tail)
            ends = [n for n, word in enumerate(words) if word in END_OF_COMMAND]
            found.append(words[: ends[0]] if ends else words)
    return found


def parser() -> CommandParser:
    return load_command_class("esteira_web", "jobs").create_parser("manage.py", "jobs")


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_every_jobs_command_parses(doc: Path) -> None:
    for words in jobs_commands(doc):
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"manage.py jobs {shlex.join(words)}")


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_submitted_job_types_exist_and_take_the_parameters(doc: Path, job_types: None) -> None:
    _declare_examples(doc)
    for words in jobs_commands(doc):
        if words[0] != "submit" or words[1].isupper() or doc == ANOTHER_PROJECT:
            continue
        fields = registry.get(words[1]).model.model_fields
        given = [word.partition("=")[0].rstrip(":") for word in words[2:] if "=" in word and word[0] != "-"]

        assert set(given) <= set(fields), words
        for number, word in enumerate(words):
            if word == "--file":
                name, _, path = words[number + 1].partition("=")
                assert name in fields
                # What lies in web's volume was put there by the line before; the journeys type both.
                assert path.startswith("/data/") or (ROOT / path).is_file(), path


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_addresses_in_curl_lines_exist(doc: Path) -> None:
    for line in typed(doc):
        for path in re.findall(r"\$WEB_URL(/[^\s\"'?]*)", line):
            resolve(re.sub(r"\$\{?\w+\}?", "00000000-0000-7000-8000-000000000000", path))


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_submitted_bodies_are_what_the_job_types_take(doc: Path, job_types: None) -> None:
    _declare_examples(doc)
    lines = [line for line in typed(doc) if '{"type"' in line]
    for word in (word for line in lines for word in shlex.split(line.replace("$(", "").rstrip(")"))):
        if word.startswith('{"type"'):
            body = json.loads(re.sub(r"\$\w+", str(uuid4()), word))
            assert set(body) <= {"type", "params", "options"}, word
            check(registry.get(body["type"]).model, body.get("params", {}))


def _declare_examples(doc: Path) -> dict[str, Any]:
    """Declare the job types of a document's examples, as the module that the text says they are."""
    names: dict[str, Any] = {}
    for n, block in enumerate(b for kind, b in FENCE.findall(text(doc)) if kind == "python"):
        spec = importlib.util.spec_from_loader(f"examples_{n}.greetings", loader=None)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        module.__dict__["__name__"] = spec.name
        exec(compile(block, str(ROOT / doc), "exec"), module.__dict__)
        names.update(module.__dict__)
    return names


@pytest.mark.parametrize(
    ("doc", "command"),
    [
        ("README.md", "docker compose exec web manage"),
        ("docs/operations.md", "docker compose exec web manage"),
        ("docs/kubernetes.md", "kubectl exec deploy/web -- manage"),
    ],
)
def test_files_are_fetched_by_the_line_that_the_demo_prints(doc: str, command: str, settings: Any) -> None:
    settings.ESTEIRA_MANAGE_COMMAND = command

    assert hints.fetched(Path("/data/demo")) in typed(Path(doc))
    assert command in text("compose/app.yaml") + text("k8s/config.yaml")


def test_the_readme_s_job_type_runs(job_types: None) -> None:
    names = _declare_examples(README)

    ctx = esteira.LocalContext()
    greet = names["greet"]
    assert isinstance(greet, JobType)
    assert greet.name == "greetings.greet"
    assert greet.run_with(ctx, name="Ana", times=2) == {"text": "Hello Ana"}
    assert ctx.progress_calls[-1][:2] == (2, 2)


def test_every_decorator_in_the_readme_declares_a_job_type(job_types: None) -> None:
    decorators = [line for line in code(README) if line.startswith("@job(")]
    assert decorators

    for n, decorator in enumerate(decorators):

        def example(ctx: Context, account_id: int = 0) -> None:
            """Do nothing."""

        names = {**vars(esteira), "job": job}
        declared = eval(decorator[1:].replace("@job(", f"@job(name='t{n}', "), names)(example)

        assert isinstance(declared, JobType)
        registry.remove(declared.name)
