"""Load every job type: import the packages named by JOB_PACKAGES, with all their public modules.

The core never imports a job package by name. A package that cannot be loaded stops the start with its own error: a
worker without its job types would look healthy and do nothing. A module whose name begins with an underscore is loaded
only when another module imports it: it may need a large library that every process would load otherwise.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from esteira.errors import DeclarationError


def load(packages: Sequence[str]) -> None:
    """Import each package and its public modules; raises DeclarationError if there is no such package."""
    for name in packages:
        try:
            package = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                raise DeclarationError("unknown-package", name=name) from None
            raise
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{name}."):
            if not _is_private(module.name.removeprefix(name)):
                importlib.import_module(module.name)


def _is_private(path: str) -> bool:
    return any(part.startswith("_") for part in path.split("."))
