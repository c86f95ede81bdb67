"""Workers in the admin, as they announced themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest

from esteira.liveness import SILENT_S
from esteira.models import ClockTimestamp, Worker
from esteira_web.admin.readonly import ReadOnly, moment


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    list_display = ("name", "condition", "host", "pid", "reads", "slots", "seen")
    fields = ("name", "condition", "host", "pid", "reads", "knows", "slots", "incarnation", "started", "seen")
    readonly_fields = fields
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        fresh = Q(last_seen__gt=ClockTimestamp() - timedelta(seconds=SILENT_S))
        return Worker.objects.annotate(fresh=ExpressionWrapper(fresh, output_field=BooleanField()))

    @admin.display(description="state")
    def condition(self, worker: Any) -> str:
        """Return the same state as the metrics: a worker that announced its stop is gone, and not silent."""
        return "silent" if worker.state == "up" and not worker.fresh else str(worker.state)

    @admin.display(description="queues")
    def reads(self, worker: Worker) -> str:
        return _listed(worker.queues)

    @admin.display(description="job types")
    def knows(self, worker: Worker) -> str:
        return _listed(worker.types)

    @admin.display(description="started")
    def started(self, worker: Worker) -> str:
        return moment(worker.started_at)

    @admin.display(description="last seen")
    def seen(self, worker: Worker) -> str:
        return moment(worker.last_seen)


def _listed(names: Any) -> str:
    """Show a list that a worker announced; a row that was written by hand may hold something else."""
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names)
