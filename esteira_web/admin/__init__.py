"""Django's admin for operators: jobs, schedules, queues, workers and tokens.

It reads models and acts through `esteira.operate`; it never saves a job. Django's permissions apply: `view job` to see
jobs, `change job` to cancel and retry them, `view job log` to see their parameters, results, logs and files.
"""

from esteira_web.admin.jobs import JobAdmin
from esteira_web.admin.queues import QueueAdmin
from esteira_web.admin.schedules import ScheduleAdmin
from esteira_web.admin.tokens import ApiTokenAdmin
from esteira_web.admin.workers import WorkerAdmin

__all__ = ["ApiTokenAdmin", "JobAdmin", "QueueAdmin", "ScheduleAdmin", "WorkerAdmin"]
