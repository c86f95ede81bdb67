"""How the tests are shared out between processes: what uses one thing of the machine stays together, the rest is free.

`make test` runs two processes, each with servers of its own. A file is never divided. Everything that starts containers
is one group, and everything on the cluster another, because those tests share stacks. The longest comes first, so that
both processes end at about the same time; the cluster may still be coming up while the first groups run.
"""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).parent.parent
#: Lanes first to last; a folder stands for each of its files.
ORDER = ("containers", "chaos", "cluster", "integration", "repo", "unit")
#: Folders whose files are one group, the innermost first.
TOGETHER = {
    "chaos/kubernetes": "cluster",
    "e2e/kubernetes": "cluster",
    "chaos/containers": "containers",
    "e2e": "containers",
}


def group(path: Path) -> str:
    """Return the group of a test file: one of those that stay together, or the file itself."""
    name = path.relative_to(TESTS).as_posix()
    return next((group for folder, group in TOGETHER.items() if name.startswith(f"{folder}/")), name)


def place(path: Path) -> int:
    """Return where in the order the tests of a file come."""
    return ORDER.index(group(path).split("/", 1)[0])


class GroupScheduling(LoadScopeScheduling):
    """pytest-xdist's scheduler of groups, with those that share something of the machine."""

    def _split_scope(self, nodeid: str) -> str:
        return group(TESTS.parent / nodeid.split("::", 1)[0])
