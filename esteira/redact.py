"""Hide secrets in a job's parameters before they are shown.

Rows hold secrets in clear text, because the job needs them. Everything that shows a job (pages, API, admin, command
line) calls this module first. A whole parameter is hidden if a secret may be anywhere inside it. A job type that this
release does not have is hidden too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esteira.errors import UnknownJobType
from esteira.job_types.registry import registry
from esteira.job_types.secret import open_names
from esteira.record.tasks import ARGS, KWARGS
from esteira.values.misfits import STARS

HIDDEN = STARS
#: Parameters that are not a JSON object come from a row written by hand; they are shown under this name.
NO_OBJECT = "(no object)"
#: The arguments of a Celery task, as its sender shows them.
SHOWN_BY_SENDER = (ARGS, KWARGS)


def shown_params(type_name: str, params: Any) -> dict[str, Any]:
    """Return a job's stored parameters with the secret ones replaced by stars."""
    if not isinstance(params, Mapping):
        return {NO_OBJECT: HIDDEN}
    try:
        names = open_names(registry.get(type_name).model)
    except UnknownJobType:
        names = frozenset()
    return {
        name: value if name in names or name in SHOWN_BY_SENDER else HIDDEN for name, value in params.items()
    }
