"""Steps of the keeper's turn that other layers add: the settling of adopted Celery tasks.

Each runs with the keeper's connection, isolated like every step (`esteira.keeper.turns`). Importable before Django's
models, because an app is adopted before Django is set up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: By name, as metrics and alerts show it; a step returns whether there is more to do.
ADDED: dict[str, Callable[[Any], bool]] = {}
