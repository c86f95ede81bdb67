"""What to type next, as it is typed where people sit: in front of a container it begins otherwise."""

from __future__ import annotations

import shlex
from pathlib import Path

from django.conf import settings


def typed(words: str) -> str:
    """Return the line that runs `jobs …` here."""
    return f"{settings.MANAGE_COMMAND} jobs {words}"


def here() -> bool:
    """Whether this command runs where it was typed, so that what it writes is there."""
    return str(settings.MANAGE_COMMAND).endswith("manage.py")


def fetched(path: Path) -> str:
    """Return the line that brings what was written in a container to where people sit; "" if there is none to say."""
    before = _before_manage()
    name, folder = shlex.quote(path.name), shlex.quote(str(path.parent))
    match before.split():
        case ["docker", "compose", "exec", *_, service]:
            return f"docker compose cp {service}:{shlex.quote(str(path))} ."
        case ["kubectl", "exec", *_]:
            return f"{before} tar -C {folder} -cf - {name} | tar -xf -"
    return ""


def brought(path: Path) -> str:
    """Return the line that brings a file of theirs into the container, to DATA_DIR; "" if there is none to say."""
    before = _before_manage()
    match before.split():
        case ["docker", "compose", "exec", *_, service]:
            return f"docker compose cp {shlex.quote(str(path))} {service}:{settings.DATA_DIR}/"
        case ["kubectl", "exec", *_]:
            put = shlex.quote(f"cat > {shlex.quote(str(inside(path)))}")
            return f"{before.replace('exec', 'exec -i', 1)} sh -c {put} < {shlex.quote(str(path))}"
    return ""


def inside(path: Path) -> Path:
    """Return where a file lies that was brought into the container."""
    return Path(settings.DATA_DIR) / path.name


def _before_manage() -> str:
    """Return how any command begins that runs beside this one."""
    return str(settings.MANAGE_COMMAND).removesuffix(" manage")
