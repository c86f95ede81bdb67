"""No line of kubectl that a document has a reader type waits for what may never come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repo.test_docs import DOCS, typed

#: A Job that failed never becomes Complete; so long a reader may look at a line that says nothing.
MOST_S = 60
UNITS = {"s": 1, "m": 60, "h": 3600}
WAITS = re.compile(r"\bkubectl (?:-n \S+ )?(wait|rollout status)\b[^|;&\n]*")
ENDS_WITH_SUCCESS_ONLY = re.compile(
    r"--for[= ]condition=(Complete|Failed|SuccessCriteriaMet)\b", re.IGNORECASE
)


def faults(line: str) -> list[str]:
    """Return what is wrong with the waits of a line."""
    found = []
    for match in WAITS.finditer(line):
        timeout = re.search(r"--timeout[= ](\d+)([smh])\b", match[0])
        if not timeout:
            found.append(f"no end: give a --timeout: {match[0]}")
        elif ENDS_WITH_SUCCESS_ONLY.search(match[0]) and int(timeout[1]) * UNITS[timeout[2]] > MOST_S:
            found.append(f"hangs when the Job ends the other way; ask for any condition: {match[0]}")
    if re.search(r"\bkubectl (\S+ )*logs\b.* (-f|--follow)\b.*\bjob/", line):
        found.append(f"is refused while the container is being created: {line}")
    return found


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_no_line_waits_for_what_may_never_come(doc: Path) -> None:
    assert not [fault for line in typed(doc) for fault in faults(line)]


@pytest.mark.parametrize(
    "line",
    [
        "kubectl wait --for=condition=Complete job/restore-now --timeout=30m",
        "kubectl -n esteira wait --for=condition=complete job/keys --timeout=2m",
        "kubectl wait --for=condition=Available deploy --all",
        "kubectl apply -k deploy/prod && kubectl rollout status deploy/worker",
        "kubectl logs -f job/restore-now",
    ],
)
def test_a_line_that_may_hang_is_found(line: str) -> None:
    assert faults(line)


@pytest.mark.parametrize(
    "line",
    [
        "kubectl wait --for=jsonpath='{.status.conditions[0].status}'=True job/restore-now --timeout=30m",
        "kubectl wait --for=condition=Complete job/restore-now --timeout=30s",
        "kubectl wait --for=condition=Available deploy --all --timeout=5m",
        "kubectl logs job/restore-now",
        "kubectl logs -f deploy/web",
    ],
)
def test_a_line_that_ends_is_left_alone(line: str) -> None:
    assert not faults(line)
