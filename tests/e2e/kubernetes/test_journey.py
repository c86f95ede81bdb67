"""The journey through Kubernetes."""

from __future__ import annotations

from tests.support.journey import Journey


class TestKubernetes(Journey):
    """What `kubectl apply -f k8s/` started."""
