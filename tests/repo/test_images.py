"""The Dockerfile and what it copies: one target for each process, nothing that builds or tests in what is shipped."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import images as sizes
from tests.repo.test_package import PROJECT
from tests.repo.tools import has_wheel, run
from tests.repo.tree import ROOT, files, text

DOCKERFILE = Path("services/Dockerfile")
ROLES = ["web", "worker", "beat", "flower"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: what it is built from, and its instructions, each on one line."""

    name: str
    source: str
    lines: tuple[str, ...]

    def last(self, instruction: str) -> str:
        found = [line for line in self.lines if line.startswith(f"{instruction} ")]
        return found[-1].removeprefix(f"{instruction} ") if found else ""


def stages() -> dict[str, Stage]:
    whole = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text(DOCKERFILE), flags=re.MULTILINE))
    found = {}
    for part in re.split(r"^(?=FROM )", whole, flags=re.MULTILINE)[1:]:
        first, *lines = [line for line in part.splitlines() if line.strip()]
        source, name = re.fullmatch(r"FROM (\S+) AS (\S+)", first).groups()  # type: ignore[union-attr]
        found[name] = Stage(name=name, source=source, lines=tuple(lines))
    return found


def test_one_target_for_each_process_on_one_base() -> None:
    found = stages()

    assert [name for name, stage in found.items() if stage.source == "base"] == [*ROLES, "dev"]
    assert {found["build"].source, found["base"].source} == {"system"}
    assert found["system"].source == "${PYTHON_IMAGE}"


def test_what_they_are_built_on_is_the_same_for_dependabot_and_for_compose() -> None:
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text(DOCKERFILE), re.MULTILINE)
    (shown,) = re.findall(r"^#PYTHON_IMAGE=(\S+)$", text(".env.example"), re.MULTILINE)

    assert stages()[default].source == shown, "change it in compose/ and .env.example as well"


def test_hadolint_and_trivy_find_nothing() -> None:
    run("hadolint", "--no-color", str(DOCKERFILE))
    if has_wheel("trivy"):
        run(
            "trivy",
            "config",
            "--quiet",
            "--skip-check-update",
            "--skip-version-check",
            "--exit-code=1",
            "services",
        )


@pytest.mark.skipif(not has_wheel("shellcheck"), reason="shellcheck has no wheel for this machine")
def test_shell_scripts_are_sound() -> None:
    scripts = [path for path in files() if _shell(path)]
    assert len(scripts) >= 6

    run("shellcheck", "--external-sources", *map(str, scripts))


def _shell(path: Path) -> bool:
    if path.suffix == ".sh":
        return True
    with (ROOT / path).open("rb") as file:
        return re.match(rb"#!.*\b(sh|bash)\n", file.readline()) is not None


@pytest.mark.parametrize("role", ROLES)
def test_each_starts_without_a_shell_and_says_how_it_is(role: str) -> None:
    stage = stages()[role]
    check = stage.last("HEALTHCHECK")

    command, probe = json.loads(stage.last("CMD")), json.loads(check.partition(" CMD ")[2])
    assert command[0] in ("gunicorn", "celery")
    assert any(str(part).startswith(f"/services/{role}/") for part in probe)
    for option in ("interval", "timeout", "start-period", "retries"):
        assert f"--{option}=" in check, option


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_a_stuck_loop_is_seen_within_thirty_seconds(role: str) -> None:
    check = stages()[role].last("HEALTHCHECK")
    interval, timeout, retries = (
        int(re.findall(rf"--{name}=(\d+)", check)[0]) for name in ("interval", "timeout", "retries")
    )
    (age,) = re.findall(r"-newermt '-(\d+) seconds'", text(f"services/{role}/healthy"))

    assert int(age) + interval * retries <= 30
    assert timeout <= interval


def test_the_user_is_a_number_and_root_is_never_the_last_one() -> None:
    found = stages()

    users = {role: found[role].last("USER") or found["base"].last("USER") for role in ROLES}
    assert set(users.values()) == {"10001:10001"}


def test_only_flower_has_flower_only_web_copies_backups_and_no_image_has_what_tests_need() -> None:
    synced = {
        name: re.findall(
            r"uv sync --locked(?: --inexact)? --no-default-groups((?: --group \w+)*)", " ".join(stage.lines)
        )
        for name, stage in stages().items()
    }

    assert {name: groups for name, groups in synced.items() if groups} == {
        "build": [" --group project"],
        "flower": [" --group project --group flower"],
        "web": [" --group project --group bucket"],
        "dev": [" --group project --group local --group bucket"],
    }
    groups = PROJECT["dependency-groups"]
    assert "pytest" not in " ".join(
        [*PROJECT["project"]["dependencies"], *groups["project"], *groups["flower"]]
    )


def test_the_same_uv_builds_images_and_environments() -> None:
    (pinned,) = re.findall(r"^uv==(\d+\.\d+)\.\d+ ", text("services/uv.txt"), re.MULTILINE)

    assert f"'uv>={pinned}," in text("Makefile")


def test_uv_is_the_one_whose_hash_is_known_and_checks_the_hashes_of_all_else() -> None:
    build = " ".join(stages()["build"].lines)
    lines = text("services/uv.txt").splitlines()

    assert "--require-hashes --requirement /tmp/uv.txt" in build
    assert "--mount=type=bind,source=services/uv.txt,target=/tmp/uv.txt" in build
    assert all(re.fullmatch(r"uv==[\d.]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines)
    assert len(lines) > 10, "every platform has a wheel of its own"


def test_what_is_fetched_stays_in_caches_and_no_secret_is_written() -> None:
    for name, stage in stages().items():
        for line in stage.lines:
            if re.search(r"\b(uv pip|pip install|uv sync)\b", line):
                assert "--mount=type=cache" in line, name
            assert not re.search(r"^(ENV|ARG) .*(PASSWORD|SECRET|TOKEN)", line), name
            assert not re.match(r"ADD ", line), name


def test_the_builder_sees_only_what_is_copied() -> None:
    allowed = set(re.findall(r"^!(\S+)$", text(".dockerignore"), re.MULTILINE))
    copied = {
        source.split("/")[0]
        for stage in stages().values()
        for line in stage.lines
        if line.startswith("COPY ") and "--from" not in line
        for source in [re.sub(r"--\S+ ", "", line).split()[1]]
    }

    assert allowed == copied | {"pyproject.toml", "uv.lock"}
    assert text(".dockerignore").splitlines()[1] == "*"


def test_the_tables_of_the_images_are_those_that_make_sizes_prints() -> None:
    """Every row is there, in its order; the figures are one machine's."""
    times = dict.fromkeys((sizes.ANEW, sizes.CHANGED, sizes.SAME, sizes.COLD, sizes.WARM), 0.0)
    printed = [
        *sizes.size_table(dict.fromkeys(sizes.ROLES, (0, 0))),
        *sizes.memory_table(dict.fromkeys(sizes.PARTS, 0.0)),
        *sizes.time_table(times),
    ]
    shown = text("docs/images.md").partition("make sizes")[2].splitlines()

    rows = [line for line in shown if line.startswith("|")]
    assert [_label(row) for row in rows] == [_label(row) for row in printed]


def _label(row: str) -> str:
    return row.split("|")[1].strip()
