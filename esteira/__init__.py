"""Background jobs for Django that survive anything.

The public names, all from pure modules: importable before Django is set up.
"""

from esteira.cadence import cron, every
from esteira.context import Context, LocalContext
from esteira.declare import job
from esteira.errors import Cancelled, EsteiraError, GiveUp, Retry, TimeLimitExceeded
from esteira.params import FileRef, Secret
from esteira.registry import JobType

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
