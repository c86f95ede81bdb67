"""The journey through Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.kubernetes.conftest import Installed
from tests.support.documents import printed
from tests.support.journey import Journey, job_in, thumbnails_in


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
        assert {Path(name).parent for one in scenes.values() for name in one["files"]} == {Path("/data/demo")}

    def test_files_go_in_and_come_out_by_the_documented_lines(self, stack: Installed, tmp_path: Path) -> None:
        lines = printed("docs/kubernetes.md", "kubectl exec -i deploy/web -- sh -c 'cat")
        upload, _, fetch = lines.splitlines()
        stack.execute("web", "rm", "-rf", "/data/demo")

        one = job_in(stack.type(upload))
        stack.manage("jobs", "show", one, "--save", "/data/demo")
        stack.type(f"cd {tmp_path}\n{fetch}")
        (holder, *_) = [pod for pod in stack.ready("web") if has_the_folder(stack, pod)]
        stack.kubectl("cp", f"{holder}:/data/demo", str(tmp_path / "copied"))

        for folder in ("demo", "copied"):
            assert thumbnails_in(tmp_path / folder) == 3, folder


def has_the_folder(stack: Installed, pod: str) -> bool:
    return stack.tried("exec", pod, "--", "test", "-d", "/data/demo").returncode == 0
