"""docs/openapi.json is the description of the API as this checkout gives it: no name of it changes by accident."""

from __future__ import annotations

import json

from esteira.job_types.registry import registry
from esteira_web.api.openapi import described
from esteira_web.api.routes import api
from tests.repo.tree import ROOT


def test_the_description_is_the_one_in_the_documents() -> None:
    shipped = [kind for kind in registry.all() if kind.where.startswith(f"{ROOT}/jobs/")]

    told = json.loads(json.dumps(described(api, shipped)))

    kept = json.loads((ROOT / "docs/openapi.json").read_text())
    changed = {name for name in told | kept if told.get(name) != kept.get(name)}
    assert not changed, (
        "If the change is meant, run `make openapi`, and say in CHANGELOG.md what clients notice."
    )
