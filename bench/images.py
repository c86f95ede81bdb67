"""How large the images are, how long a stack takes to build and start, and what it holds in memory: `make sizes`.

It works on a copy of this checkout with a project, ports and volumes of its own, prints Markdown for
docs/images.md, and removes what it made. Nothing of a running stack is touched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from project.local.embedded import free_port

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("web", "worker", "beat", "flower")
COPIED = (
    "compose.yaml",
    "compose",
    "k8s/backup/backup",
    "k8s/exporters/login",
    "services",
    "secrets/README.md",
    "manage.py",
    "pyproject.toml",
    "uv.lock",
)
PACKAGES = ("esteira", "esteira_web", "project", "jobs")
BASE = os.environ.get("PYTHON_IMAGE") or "python:3.13-slim-trixie"
ANEW = "build all four, no layer there, packages fetched before"
CHANGED = "build after a change of the code"
SAME = "build after no change"
COLD = "start from nothing: no volumes, no secrets, no tables"
WARM = "start again, the volumes are there"
PARTS = ("web", "worker", "beat", "flower", "postgres", "redis")
IDLE_S = 20  # after the last part is healthy: what a start needs has been given back by then
LOOKS = 5
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One stack of our own: where its files are, and what tells it from others."""

    folder: Path
    name: str
    env: dict[str, str]

    def compose(self, *arguments: str) -> str:
        return self.run("docker", "compose", "--progress", "quiet", *arguments)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def seconds(self, what: str, *arguments: str) -> float:
        print(f"{what} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        self.compose(*arguments)
        return time.monotonic() - began


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with trial() as ours:
        times = builds(ours)
        sizes = own_layers(ours)
        times[COLD] = ours.seconds("start", "up", "-d", "--wait")
        memory = idle_memory(ours)
        ours.compose("down")
        times[WARM] = ours.seconds("start again", "up", "-d", "--wait")
    print("\n".join([*size_table(sizes), "", *memory_table(memory), "", *time_table(times)]))


@contextmanager
def trial() -> Iterator[Trial]:
    """Make a copy of what is built and run; afterwards remove it, its containers, volumes and images."""
    name = f"esteira-sizes-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        _copy(Path(folder))
        settings = {
            "COMPOSE_PROJECT_NAME": name,
            "PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
        }
        kept = {
            k: v
            for k, v in os.environ.items()
            if k.startswith("DOCKER_") or k in ("PATH", "HOME", "PYTHON_IMAGE")
        }
        ours = Trial(folder=Path(folder), name=name, env={**kept, **settings})
        try:
            yield ours
        finally:
            ours.run("docker", "compose", "--progress", "quiet", "down", "-v", "--timeout", "10", check=False)
            ours.run("docker", "rmi", *(f"{name}-{role}" for role in ROLES), check=False)


def _copy(folder: Path) -> None:
    for name in (*COPIED, *PACKAGES, ".dockerignore"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def builds(ours: Trial) -> dict[str, float]:
    """Build anew, after a change of the code, and after none."""
    found = {ANEW: ours.seconds("build", "build", "--no-cache")}
    (ours.folder / "jobs" / "another.py").write_text('"""One more module."""\n')
    found[CHANGED] = ours.seconds("build after a change", "build")
    found[SAME] = ours.seconds("build after none", "build")
    return found


def own_layers(ours: Trial) -> dict[str, tuple[int, int]]:
    """Return the bytes of each image beyond the one it is built on, and how many of them all four share."""
    below = len(_layers(ours, BASE))
    layers = {role: _layers(ours, f"{ours.name}-{role}") for role in ROLES}
    own = {role: found[: len(found) - below][::-1] for role, found in layers.items()}
    shared = [step for step, *others in zip(*own.values(), strict=False) if all(o == step for o in others)]
    return {role: (sum(s for s, _ in steps), sum(s for s, _ in shared)) for role, steps in own.items()}


def _layers(ours: Trial, image: str) -> list[tuple[int, str]]:
    """Size and making of each layer, the last one first."""
    asked = [
        "docker",
        "history",
        "--human=false",
        "--no-trunc",
        "--format",
        "{{.Size}}\t{{.CreatedBy}}",
        image,
    ]
    lines = [line.partition("\t") for line in ours.run(*asked).splitlines()]
    return [(int(size), made) for size, _, made in lines]


def idle_memory(ours: Trial) -> dict[str, float]:
    """Return the MiB that each service's container holds, the median of some looks."""
    print("looking at memory …", file=sys.stderr, flush=True)
    time.sleep(IDLE_S)
    running = [json.loads(line) for line in ours.compose("ps", "--format", "json").splitlines()]
    names = {one["ID"]: one["Service"] for one in running}
    looks: dict[str, list[float]] = {service: [] for service in names.values()}
    for _ in range(LOOKS):
        told = ours.run("docker", "stats", "--no-stream", "--format", "{{.ID}}\t{{.MemUsage}}", *names)
        for line in told.splitlines():
            container, _, usage = line.partition("\t")
            looks[names[container[:12]]].append(_mib(usage))
    return {service: statistics.median(looks[service]) for service in PARTS}


def _mib(usage: str) -> float:
    """Return the first figure of `104.9MiB / 512MiB`."""
    number, unit = re.match(r"([\d.]+)(\w+)", usage).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit] / 2**20


def size_table(sizes: dict[str, tuple[int, int]]) -> list[str]:
    rows = [
        f"| `esteira-{role}` | {own / 1e6:.1f} MB | {(own - shared) / 1e6:.1f} MB |"
        for role, (own, shared) in sizes.items()
    ]
    return ["| image | our own layers | of them its alone |", "|---|---|---|", *rows]


def memory_table(memory: dict[str, float]) -> list[str]:
    rows = [f"| {service} | {mib:.0f} MiB |" for service, mib in memory.items()]
    return ["| container | memory, idle |", "|---|---|", *rows]


def time_table(times: dict[str, float]) -> list[str]:
    return [
        "| what | seconds |",
        "|---|---|",
        *(f"| {what} | {seconds:.1f} |" for what, seconds in times.items()),
    ]


if __name__ == "__main__":
    main()
