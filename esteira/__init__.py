"""Background jobs for Django that survive anything.

The public names, all from pure modules: importable before Django is set up.
"""

from esteira.errors import EsteiraError
from esteira.job_types.context import Context, LocalContext
from esteira.job_types.decorator import job
from esteira.job_types.exceptions import Cancelled, GiveUp, Retry, TimeLimitExceeded
from esteira.job_types.parameters import FileRef, Secret
from esteira.job_types.registry import JobType
from esteira.job_types.schedule import cron, every

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Context",
    "EsteiraError",
    "FileRef",
    "GiveUp",
    "JobType",
    "LocalContext",
    "Retry",
    "Secret",
    "TimeLimitExceeded",
    "cron",
    "every",
    "job",
]
