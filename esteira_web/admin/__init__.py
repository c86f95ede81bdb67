"""Django's admin for operators: jobs, schedules, queues, workers and tokens.

It reads models and acts through `esteira.operate`; no job is ever saved here. Django's permissions apply: `view job` to
look, `change job` to cancel and retry, `view job log` to see what jobs were given and what they produced.
"""

from esteira_web.admin.jobs import JobAdmin
from esteira_web.admin.queues import QueueAdmin
from esteira_web.admin.schedules import ScheduleAdmin
from esteira_web.admin.tokens import ApiTokenAdmin
from esteira_web.admin.workers import WorkerAdmin

__all__ = ["ApiTokenAdmin", "JobAdmin", "QueueAdmin", "ScheduleAdmin", "WorkerAdmin"]
