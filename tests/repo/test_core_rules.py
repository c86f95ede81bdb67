"""The rules that make "nothing is lost" readable hold in the source: one writer, one clock, no quiet catch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from esteira.states import TRANSITIONS
from tests.repo.tree import dotted, functions, modules, strings, text, tree_of

OURS = ("esteira", "esteira_web", "jobs", "project")
RECORD = Path("esteira/record")
#: Where an ended job may be deleted: retention, which writes no state.
MAY_DELETE = {Path("esteira/keeper/retention.py")}

#: Who may read a clock that is not the database's, and why no stored time is compared with it.
OTHER_CLOCKS = {
    (
        "esteira/values/bounds.py",
        "moment",
    ): "a bound of ten years from now, for which no clock is wrong enough",
    ("esteira/job_types/schedule.py", "Cadence.words"): "only words for people come from it",
    ("esteira/job_types/schedule.py", "cron"): "asks whether an expression ever fires",
    ("esteira/ids.py", "uuid7"): "a UUIDv7 begins with the time, for locality; it never decides",
}
WALL_CLOCKS = re.compile(
    r"(^|\.)(timezone\.now|localtime|datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns)|Now)$"
)
#: now() and its kin stand still during a transaction; clock_timestamp() does not.
SQL_CLOCKS = re.compile(
    r"\b(now\s*\(\s*\)|current_timestamp|transaction_timestamp|statement_timestamp|localtimestamp)",
    re.IGNORECASE,
)
WRITES_JOBS = re.compile(
    r"\b(UPDATE|INSERT\s+INTO|DELETE\s+FROM)\s+(ONLY\s+)?\"?esteira_job\"?(?![\w])", re.IGNORECASE
)
ORM_WRITES = {
    "bulk_create", "bulk_update", "create", "delete", "get_or_create", "save", "update", "update_or_create",
    "abulk_create", "acreate", "adelete", "aget_or_create", "asave", "aupdate", "aupdate_or_create",
}  # fmt: skip


def outside_record() -> list[Path]:
    return [path for path in modules(*OURS) if RECORD not in path.parents]


def test_no_sql_outside_record_writes_a_job() -> None:
    found = [
        f"{path}:{constant.lineno}: {match.group(0)}"
        for path in outside_record()
        for constant in strings(tree_of(path))
        for match in WRITES_JOBS.finditer(str(constant.value))
        if not (path in MAY_DELETE and match.group(1).upper().startswith("DELETE"))
    ]

    assert not found, "only esteira/record writes jobs:\n" + "\n".join(found)


def test_no_model_call_outside_record_writes_a_job() -> None:
    found = [
        f"{path}:{node.lineno}: {dotted(node)}"
        for path in outside_record()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and _writes_a_job(dotted(node.func))
    ]

    assert not found, "only esteira/record writes jobs:\n" + "\n".join(found)


def _writes_a_job(call: str) -> bool:
    *owner, method = call.split(".")
    return method in ORM_WRITES and (owner[:2] == ["Job", "objects"] or owner[-1:] in (["job"], ["Job"]))


def test_nobody_assigns_to_the_state_of_a_job() -> None:
    found = [
        f"{path}:{target.lineno}: {dotted(target)} = …"
        for path in modules(*OURS)
        for node in ast.walk(tree_of(path))
        for target in _assigned(node)
        if target.attr in ("state", "attempt") and dotted(target.value) in ("job", "row", "obj", "self.job")
    ]

    assert not found, "a job's state is changed by a statement of esteira/record:\n" + "\n".join(found)


def _assigned(node: ast.AST) -> list[ast.Attribute]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target for target in targets if isinstance(target, ast.Attribute)]


def test_every_transition_has_its_place_in_record() -> None:
    said = " ".join(ast.get_docstring(node) or "" for node in _functions_of_record())

    missing = [t.code for t in TRANSITIONS if not re.search(rf"\b{t.code}\b", said)]

    assert not missing, f"no function of esteira/record says that it writes {missing}"


def _functions_of_record() -> Iterator[ast.FunctionDef]:
    for path in modules("esteira"):
        if RECORD in path.parents:
            yield from (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef))


def test_statements_of_record_name_their_parameters() -> None:
    found = [
        f"{path}:{constant.lineno}"
        for path in modules("esteira")
        if RECORD in path.parents
        for constant in strings(tree_of(path))
        if re.search(r"(::|=|ANY\(|, )\s*%s|%s\s*(::|\)|,)", str(constant.value))
    ]

    assert not found, "write %(name)s:\n" + "\n".join(found)


def test_the_core_reads_no_clock_but_the_database_s() -> None:
    found = {
        (str(path), where): f"{path}:{node.lineno}: {dotted(node.func)}() in {where or 'the module'}"
        for path in modules("esteira")
        for where, node in functions(tree_of(path))
        if isinstance(node, ast.Call) and WALL_CLOCKS.search(dotted(node.func))
    }

    strangers = [line for place, line in found.items() if place not in OTHER_CLOCKS]
    assert not strangers, "use clock_timestamp(), or time.monotonic() for a span:\n" + "\n".join(strangers)
    assert not set(OTHER_CLOCKS) - set(found), "listed here, but no longer in the code"


def test_no_statement_uses_a_clock_that_stands_still() -> None:
    found = [
        f"{path}:{constant.lineno}: {match.group(0)}"
        for path in modules(*OURS)
        for constant in strings(tree_of(path))
        if (match := SQL_CLOCKS.search(str(constant.value)))
    ]

    assert not found, "use clock_timestamp():\n" + "\n".join(found)


def test_whoever_catches_everything_says_why() -> None:
    silent = []
    for path in modules("esteira", "esteira_web", "project"):
        lines = text(path).splitlines()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and _swallows_everything(node):
                said = any("#" in line for line in lines[node.lineno - 1 : node.body[0].lineno]) or _logs(
                    node
                )
                silent += [] if said else [f"{path}:{node.lineno}"]

    assert not silent, "`except Exception` needs its reason beside it:\n" + "\n".join(silent)


def _logs(handler: ast.ExceptHandler) -> bool:
    """Whether the first thing that the handler does is to say in words what happened."""
    calls = [node for node in ast.walk(handler) if isinstance(node, ast.Call)]
    return any(dotted(call.func) in ("log.exception", "log.warning", "log.error") for call in calls)


def _swallows_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    raises_again = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
    return not raises_again and any(
        kind is None or dotted(kind) in ("Exception", "BaseException") for kind in kinds
    )
