"""Django's admin for operators: jobs, schedules, queues and workers.

It reads models and acts through `esteira.operate`; no job is ever saved here. Django's permissions apply: `view job` to
look, `change job` to cancel and retry, `view job log` to see what jobs were given and what they produced.
"""

from esteira.admin.jobs import JobAdmin
from esteira.admin.queues import QueueAdmin
from esteira.admin.schedules import ScheduleAdmin
from esteira.admin.workers import WorkerAdmin

__all__ = ["JobAdmin", "QueueAdmin", "ScheduleAdmin", "WorkerAdmin"]
