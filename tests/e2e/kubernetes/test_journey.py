"""The journey through Kubernetes."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.kubernetes.conftest import Installed
from tests.support.documents import block
from tests.support.journey import Journey, job_in, thumbnails_in


class TestKubernetes(Journey):
    """What `kubectl apply -f k8s/` started."""

    def test_files_go_in_and_come_out_by_the_documented_lines(self, stack: Installed, tmp_path: Path) -> None:
        upload, _, fetch = block("docs/kubernetes.md", "coffee.jpg").splitlines()
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
