"""Commands for people to type next, with the prefix that a command needs outside the container."""

from __future__ import annotations

import shlex
from pathlib import Path

from django.conf import settings


def typed(words: str) -> str:
    """Return the command line that runs `jobs …` in this installation."""
    return f"{settings.ESTEIRA_MANAGE_COMMAND} jobs {words}"


def here() -> bool:
    """Return whether this process runs on the machine of the terminal, so that its files are there."""
    return str(settings.ESTEIRA_MANAGE_COMMAND).endswith("manage.py")


def fetched(path: Path) -> str:
    """Return the command that copies a file or folder out of the container; "" if no command is known."""
    before = _before_manage()
    name, folder = shlex.quote(path.name), shlex.quote(str(path.parent))
    match before.split():
        case ["docker", "compose", "exec", *_, service]:
            return f"docker compose cp {service}:{shlex.quote(str(path))} ."
        case ["kubectl", "exec", *_]:
            return f"{before} tar -C {folder} -cf - {name} | tar -xf -"
    return ""


def brought(path: Path) -> str:
    """Return the command that copies a file into the container, to DATA_DIR; "" if no command is known."""
    before = _before_manage()
    match before.split():
        case ["docker", "compose", "exec", *_, service]:
            return f"docker compose cp {shlex.quote(str(path))} {service}:{settings.ESTEIRA_DATA_DIR}/"
        case ["kubectl", "exec", *_]:
            put = shlex.quote(f"cat > {shlex.quote(str(inside(path)))}")
            return f"{before.replace('exec', 'exec -i', 1)} sh -c {put} < {shlex.quote(str(path))}"
    return ""


def inside(path: Path) -> Path:
    """Return the path of a file after it was copied into the container."""
    return Path(settings.ESTEIRA_DATA_DIR) / path.name


def _before_manage() -> str:
    """Return the prefix that runs a command in the same container."""
    return str(settings.ESTEIRA_MANAGE_COMMAND).removesuffix(" manage")
