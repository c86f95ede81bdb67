"""Documents as their readers use them: blocks of lines for a shell, each run as it is printed or left out with a reason.

A test that takes a block by `printed` runs it; that call is all the registration there is. What no test can run stands
in NOT_RUN, with the reason. tests/repo/test_docs_run.py sees to it that every block is one or the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tests.support.forks import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What no test runs: the page, how the block begins, and why.
NOT_RUN = {
    (
        "docs/kubernetes.md",
        "docker compose build\nkind create cluster",
    ): "kind is not here; the tests have a cluster, into which TEST_CLUSTER_LOAD loads the same images",
    (
        "docs/adding-esteira-to-a-project.md",
        "make wheel",
    ): "the tests build the same wheel in a temporary folder",
    ("docs/kubernetes.md", "export IMAGE_PREFIX=registry.example.com"): "the registry is an example",
    ("docs/your-own.md", "export IMAGE_PREFIX=registry.example.com"): "the registry is an example",
    ("docs/images.md", "IMAGE_PREFIX=ghcr.io/example/"): "the registry is an example",
    (
        "docs/operations.md",
        "COMPOSE_PROFILES=backup,bucket",
    ): "the store is somebody else's; tests/integration/test_bucket.py uploads to one that is here",
    (
        "docs/operations.md",
        "docker compose up -d --force-recreate exporters-login",
    ): "the exporters' images are not here; tests/integration/test_exporters.py starts the programs",
    (
        "docs/troubleshooting.md",
        "docker compose run --rm --no-deps postgres df",
    ): "it removes images and builds of this machine that the tests have not made",
    ("docs/troubleshooting.md", "docker compose down\ndocker run"): "there is no second disk here",
    ("docs/troubleshooting.md", "kubectl patch pvc"): "the volumes of the tests' cluster cannot grow",
    ("docs/images.md", "cosign verify ghcr.io/example/"): "no release has been signed yet",
    (
        "docs/images.md",
        "make sizes",
    ): "it builds all images anew; tests/repo/test_images.py looks at its tables",
    (
        "docs/operations.md",
        "DATABASE_URL=postgresql://user:password@db.example.com",
    ): "the servers are somebody else's; tests/e2e/test_operations.py gives the address of one that is here",
}
#: What a test may type in the place of what is printed, and why it does.
MAY_DIFFER = {
    "<this repository>": "the reader fills it in",
    "sleep 5": "the next line comes as soon as the job runs, however quick or busy the machine is",
    "seconds=15": "a job that takes less shows the same",
    "esteira_postgres": "a volume is called after the folder, and each run has names of its own",
    "--namespace=esteira": "and each run has a namespace of its own",
    "backups/esteira-20261125T040302Z.dump": "a dump is called after its moment",
    "esteira-20261125T031502Z.dump": "so is that of a cluster",
    "postgres:18-trixie": "the tests build PostgreSQL 18 where no registry answers",
    "PORT=8000-8001": "somebody may have the ports",
    "svc/web 8000": "somebody may have the port",
    "svc/flower 5555": "somebody may have the port",
    "shop_jobs": "the package is an example",
    "pip install": "uv installs the same, from its cache and at the versions of uv.lock",
    "jobs.example.com": "the tests' certificate is for a name of this machine",
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Lines for a shell, as a page has them."""

    page: str
    lines: str

    @property
    def name(self) -> str:
        return f"{self.page}: {self.lines.splitlines()[0]}"


@cache
def blocks(page: str, kind: str = "sh") -> tuple[Block, ...]:
    """Return the blocks of a page, in order."""
    found = FENCE.findall((ROOT / page).read_text())
    return tuple(Block(page=page, lines=lines) for each, lines in found if each == kind)


def block(page: str, begins: str) -> Block:
    """Return the one block of a page that begins with these words."""
    found = [one for one in blocks(page) if one.lines.startswith(begins)]
    assert len(found) == 1, f"{len(found)} blocks of {page} begin with {begins!r}"
    return found[0]


def printed(page: str, begins: str, differs: Mapping[str, str] | None = None) -> str:
    """Return the lines to run: as they are printed, but for what MAY_DIFFER allows and this call gives."""
    lines = block(page, begins).lines
    for old, new in (differs or {}).items():
        assert old in MAY_DIFFER, f"{old!r} is run as it is printed, or MAY_DIFFER says why not"
        assert old in lines, f"{page} has no {old!r} there"
        lines = lines.replace(old, new)
    return lines
