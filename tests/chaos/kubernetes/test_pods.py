"""The pods of a worker and of Redis are deleted under load: each accepted job ends, once, within a lease."""

from __future__ import annotations

from tests.support.invariants import check
from tests.support.kubernetes_under_load import KubernetesStackUnderLoad
from tests.support.load import Measured, mixed
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

#: The node still has to end what Kubernetes has forgotten already; until then it extends its leases.
KILLED_S = 2.0


def test_delete_a_worker_by_force(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """As if its node were gone: another pod takes over once the leases end."""
    victim, _ = stack.names("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    stack.delete_pods(victim, force=True)

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S + KILLED_S)
    stack.wait_ended()
    check(stack.db, ids)


def test_delete_redis(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """Leases are kept in PostgreSQL: nobody is suspected."""
    server_goes(stack, measured, "redis", force=True)


def server_goes(
    stack: KubernetesStackUnderLoad,
    measured: Measured,
    name: str,
    *,
    force: bool,
    crashed: bool = False,
    volume: bool = False,
) -> None:
    """Delete a server's pod, with its volume or not; once it is ready again, work goes on."""
    worker, _ = stack.names("worker")
    (victim,) = stack.names(name)
    (was,) = [pod["metadata"]["uid"] for pod in stack.pods(name)]
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    watch = Stopwatch()
    if volume:
        stack.kubectl("delete", "pvc", f"{name}-{victim}", "--wait=false")
    stack.delete_pods(victim, force=force)

    def back() -> bool:
        return bool(stack.ready(name)) and all(pod["metadata"]["uid"] != was for pod in stack.pods(name))

    stack.until(back, f"{name} is ready again", timeout=120)
    away = watch.seconds

    measured(stack.flows_again(), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids, crashed=crashed)
