"""A job right after its submit, as the database has stored it: showing it needs no further query."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from esteira.job_types.request import PRIORITY_NAMES
from esteira.states import State, shown_state


class NewJob:
    """The fields of `esteira.models.Job` that showing a job needs. A new job has not run, and has no schedule."""

    attempt = tries = 0
    error = result = schedule = None
    progress_done: float | None = None
    progress_total: float | None = None
    progress_text = ""
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def __init__(self, job: Any) -> None:
        """Take the job of a `Submitted` that is shown."""
        chosen = job.choices
        self.pk: UUID = job.id
        self.type, self.queue = chosen.type, chosen.queue
        self.priority_name = PRIORITY_NAMES[chosen.priority]
        self.max_tries = chosen.max_failures
        self.submitted_by, self.account = chosen.by, chosen.account
        self.unique_key = job.unique_key
        self.created_at, self.run_at, self.expires_at, params = job.stored
        self.params: Any = json.loads(params)
        self.shown_state = shown_state(State.QUEUED, failures=0, run_at=self.run_at, now=self.created_at)
        self.broken: list[str] = []
