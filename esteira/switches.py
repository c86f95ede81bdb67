"""Check the switches of `celery worker` and `celery beat` before anything starts, forks or is detached.

Celery's own commands start the processes, so each of their switches works here, or is refused with an explanation; the
table in docs/celery-switches.md lists them all, and a test compares it. A switch is refused if it would run no job
(another pool), break a promise (a limit that ends a hint), or be silently ignored. This module keeps no state.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click
import django
from celery import Celery
from celery.concurrency.prefork import TaskPool
from click.core import ParameterSource
from django.conf import settings

KEEPER = "esteira.keeper.scheduler:KeeperScheduler"
#: The names of the keeper on a command line; an installed package adds the short one.
KEEPERS = (KEEPER, "esteira")

#: Celery's options that are refused with any value, and why.
WORKER_REFUSES = {
    "beat": "run `celery beat` beside the worker: a beat inside one goes on when its worker is dead.",
    "schedule_filename": "schedules are kept in the database; there is no file of them.",
    "scheduler": "a worker has no scheduler; run `celery beat` beside it.",
    "prefetch_multiplier": "a worker takes a hint only when a process is free for it, so nothing is prefetched.",
    "time_limit": "a job's limit is its type's, @job(timeout=…); a plain task's @shared_task(time_limit=…).",
    "soft_time_limit": "a job's limit is its type's, @job(timeout=…); a plain task's @shared_task(soft_time_limit=…).",
}
BEAT_REFUSES = {
    "schedule": "schedules are kept in the database; there is no file of them.",
    "max_interval": "set KEEPER_SECONDS, which is how often the keeper looks.",
    "hostname": "beat takes no remote control, so it has no name there.",
    "executable": "beat goes on in the same program; start it with the Python that you need.",
}
#: Global options and environment variables that would give a process other settings than the rest.
ELSEWHERE_REFUSES = {
    "config": "settings come from the environment (.env.example).",
    "loader": "settings come from the environment (.env.example).",
}
BROKER_VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
#: Options that Celery reads only while it detaches into the background.
ONLY_DETACHED = {"umask": "only with --detach.", "executable": "only with --detach."}


def check(app: Celery, *, log_level: str = "") -> None:
    """Make the app's worker and beat check their switches; `log_level` is used unless the command line sets another.

    A beat with another scheduler than the keeper is checked only if the keeper is the app's beat: a project may run its
    own beat beside the keeper.
    """
    for command, rules in (("worker", _worker), ("beat", _beat)):
        app.user_options[command].add(_Last(f"--{command}-check", rules, log_level))


class _Last(click.Option):
    """A hidden option that is never given.

    Click processes it last, so all others are read, and Celery has not begun yet.
    """

    def __init__(self, name: str, rules: Callable[[_Asked], None], log_level: str) -> None:
        super().__init__([name], hidden=True, expose_value=False)
        self._rules, self._log_level = rules, log_level

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        if not ctx.resilient_parsing:
            asked = _Asked(ctx, args)
            if not _is_own_beat(asked):
                self._rules(asked)
                _everywhere(asked)
            if self._log_level and not asked.given("loglevel"):
                ctx.params["loglevel"] = logging.getLevelNamesMapping()[self._log_level]
        return None, args


class _Asked:
    """One command line, read by click; `refuse` ends it."""

    def __init__(self, ctx: click.Context, rest: Sequence[str]) -> None:
        self.ctx, self.rest = ctx, rest
        self.params = ctx.params
        self._switches = {
            param.name: param.opts for one in (ctx, ctx.parent) if one for param in one.command.params
        }

    def given(self, name: str, ctx: click.Context | None = None) -> bool:
        """Return whether an option was given on the command line, or by its environment variable."""
        source = (ctx or self.ctx).get_parameter_source(name)
        return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)

    def refuse(self, name: str, why: str) -> NoReturn:
        switch = max(self._switches.get(name, [name]), key=len)
        raise click.UsageError(f"{switch}: {why}", self.ctx)

    def refuse_given(self, reasons: Mapping[str, str], ctx: click.Context | None = None) -> None:
        for name, why in reasons.items():
            if self.given(name, ctx):
                self.refuse(name, why)


def _is_own_beat(asked: _Asked) -> bool:
    """Return whether this is a project's own beat, which runs beside the keeper."""
    app = asked.ctx.obj.app
    return "scheduler" in asked.params and not {asked.params["scheduler"], app.conf.beat_scheduler} & set(
        KEEPERS
    )


def _everywhere(asked: _Asked) -> None:
    """Check the options that worker and beat have in common."""
    if asked.rest:
        asked.refuse(
            " ".join(asked.rest),
            "not an option; Celery would take it for a setting, and settings come from the environment (.env.example).",
        )
    if asked.ctx.parent is not None:
        asked.refuse_given(ELSEWHERE_REFUSES, asked.ctx.parent)
    for name in BROKER_VARIABLES:
        if os.environ.get(name) not in (None, "", settings.ESTEIRA_REDIS_URL):
            asked.refuse(
                "broker", f"set REDIS_URL: web and beat need the same Redis ({name} names another one)."
            )
    if asked.params["detach"] is not True:
        asked.refuse_given(ONLY_DETACHED)


def _worker(asked: _Asked) -> None:
    asked.refuse_given(WORKER_REFUSES)
    params = asked.params
    if not issubclass(params["pool"], TaskPool):
        asked.refuse(
            "pool", "only prefork: each job needs a process that can be ended, and a lease kept beside it."
        )
    if asked.given("pool_start_method") and params["pool_start_method"] != "fork":
        asked.refuse("pool_start_method", "only fork: a pool process inherits its worker's name.")
    if params["detach"] is True:
        _in_the_background(asked)
    _numbers(asked)
    _queues(asked)
    if asked.given("include"):
        params["include"] = _names(asked, "include")


def _in_the_background(asked: _Asked) -> None:
    """Refuse options that are lost with --detach, because Celery then starts the worker again without `-D`."""
    if not {"-D", "--detach"} & set(sys.argv):
        asked.refuse(
            "detach", "write it by itself, not together with other letters or as an environment variable."
        )
    for name in ("uid", "gid"):
        if asked.given(name):
            asked.refuse(name, "not with --detach: the second start could not change its user any more.")


def _numbers(asked: _Asked) -> None:
    for name in ("max_tasks_per_child", "max_memory_per_child", "heartbeat_interval"):
        if asked.given(name) and asked.params[name] < 1:
            asked.refuse(name, f"at least 1, not {asked.params[name]}.")
    if asked.given("autoscale"):
        most, least = asked.params["autoscale"]
        if least < 1:
            asked.refuse(
                "autoscale", f"write maximum and minimum, {max(most, 1)},1: without a process, jobs wait."
            )
        if asked.given("concurrency"):
            asked.refuse("concurrency", "give this or --autoscale, not both.")


def _queues(asked: _Asked) -> None:
    """Read queue names as people type them, and refuse those that no job is ever sent to."""
    if not (asked.given("queues") or asked.given("exclude_queues")):
        return
    django.setup()  # the job types name the queues
    from esteira.broker.batching import known_queues  # noqa: PLC0415  (only after Django's setup)
    from esteira.broker.own_queues import own_queues, routed_queues  # noqa: PLC0415  (the same)

    app = asked.ctx.obj.app
    known = sorted({*known_queues(), *(one.name for one in own_queues(app)), *routed_queues(app)})
    wanted = {name: _names(asked, name) for name in ("queues", "exclude_queues") if asked.given(name)}
    for name, queues in wanted.items():
        if strange := sorted(set(queues) - set(known)):
            asked.refuse(
                name,
                f"no job type has the queue {', '.join(map(repr, strange))} and JOB_QUEUES does not name it; "
                f"there are: {', '.join(known)}.",
            )
    left = set(wanted.get("queues", known)) - set(wanted.get("exclude_queues", []))
    if not left:
        asked.refuse("exclude_queues", "no queue is left to work on.")
    asked.params.update(wanted)


def _names(asked: _Asked, name: str) -> list[str]:
    """Return the names in a comma-separated list, each once, without the spaces around them."""
    names = [one.strip() for one in asked.params[name]]
    if not all(names):
        asked.refuse(name, "a name is empty; write them as a,b.")
    return list(dict.fromkeys(names))


def _beat(asked: _Asked) -> None:
    asked.refuse_given(BEAT_REFUSES)
    if asked.params["scheduler"] not in KEEPERS:
        asked.refuse(
            "scheduler", f"only {KEEPER}: without the keeper no job is rescued, scheduled or sent to Redis."
        )
    if asked.params["remote_control"] is True:
        asked.refuse("remote_control", "beat takes none; look at beat.alive and beat.ready in RUN_DIR.")
