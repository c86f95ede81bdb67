"""What may be shown of a job's parameters: everything but secrets.

Rows hold secrets in clear, because the job needs them; whatever shows a job (pages, API, admin, command line) asks here
first. A parameter is hidden whole if a secret may be anywhere inside it. What this release does not know is hidden too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esteira.errors import UnknownJobType
from esteira.job_types.registry import registry
from esteira.job_types.secret import open_names
from esteira.values.misfits import STARS

HIDDEN = STARS
#: Parameters that are no JSON object are a fault of whoever wrote the row; they are shown under this name.
NO_OBJECT = "(no object)"


def shown_params(type_name: str, params: Any) -> dict[str, Any]:
    """Return a job's stored parameters with the secret ones replaced by stars."""
    if not isinstance(params, Mapping):
        return {NO_OBJECT: HIDDEN}
    try:
        names = open_names(registry.get(type_name).model)
    except UnknownJobType:
        names = frozenset()
    return {name: value if name in names else HIDDEN for name, value in params.items()}
