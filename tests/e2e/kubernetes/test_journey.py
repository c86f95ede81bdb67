"""The journey through Kubernetes."""

from __future__ import annotations

import json

from tests.e2e.kubernetes.conftest import Installed
from tests.support.journey import Journey


class TestKubernetes(Journey):
    """What `kubectl apply -f k8s/` started."""

    def test_a_variable_of_own_jobs_is_where_they_run(self, stack: Installed) -> None:
        assert stack.execute("worker", "printenv", "SHOP_API_KEY").strip() == "k-1234"
        assert "SHOP_API_KEY" not in stack.execute("flower", "env")

    def test_the_demo_ends_well_without_a_mail_server(self, stack: Installed) -> None:
        said = stack.execute("web", "env", "EMAIL_URL=", "manage", "jobs", "demo", "--json")

        scenes = {one["type"]: one for one in map(json.loads, said.splitlines())}
        assert scenes.pop("email.send")["state"] == "skipped"
        assert len(scenes) == 5
        assert all(one["as_meant"] for one in scenes.values()), said
