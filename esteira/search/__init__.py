"""Find the jobs that a list shows, newest first, at a bounded cost for any filter and any number of jobs.

Jobs that failed, that wait for later or that run have an index of rare rows, and usually few jobs wait now. All other
jobs are found by a walk along all jobs, from the newest on, that ends at its bounds (`esteira.search.scan`). The result
is complete down to the moment that the search returns (`searched_to`); the next search continues from there. Jobs may
change between two statements: a list shows one moment, and a job may have another state when it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from esteira.db import Db
from esteira.errors import TooSlow
from esteira.models.shown import in_state
from esteira.search import scan
from esteira.search.open_rows import NEWEST_DUE, PUBLISHED, RUNNING, UNPUBLISHED
from esteira.search.scan import ALL, ENDED_BADLY, HIGHEST, LATER, LOWEST, OF_ACCOUNT, Key, Part, Scan, Stretch
from esteira.states import RETRYABLE, State


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A filter for jobs: any of these states and types, a queue, an account, and created between two moments.

    If nothing is given, all jobs match. A further condition is one more entry of `conditions` and of `asked`.
    """

    states: Sequence[str] = ()
    types: Sequence[str] = ()
    queue: str = ""
    account: str | None = None
    after: datetime | None = None
    before: datetime | None = None

    def conditions(self) -> list[str]:
        """Return SQL conditions on the row `j` without those on states and moments, with the names of `asked`."""
        found = ["j.type = ANY(%(types)s)"] if self.types else []
        found += ["j.queue = %(queue)s"] if self.queue else []
        return found + (["j.account = %(account)s"] if self.account is not None else [])

    def asked(self) -> dict[str, Any]:
        return {"types": list(self.types), "queue": self.queue, "account": self.account}

    def fits(self, states: Sequence[str]) -> str:
        """Return an SQL condition on the row `j` for the wanted jobs in these states; without states, in any state."""
        found = self.conditions()
        if states:
            found.append(f"({' OR '.join(map(in_state, states))})")
        return f"({' AND '.join(found) or 'true'})"

    def lists(self) -> str:
        """Say in SQL on the row `k` which lists of waiting rows are meant; see `esteira.search.open_rows`."""
        found = ["k.type = ANY(%(types)s)"] if self.types else []
        return " AND ".join(found + (["k.queue = %(queue)s"] if self.queue else [])) or "true"

    def not_given(self) -> list[str]:
        """Name the filters that would narrow the search and are not given."""
        given: dict[str, Any] = {"state": self.states, "type": self.types, "queue": self.queue}
        given |= {"created_after": self.after, "created_before": self.before}
        return [name for name, value in given.items() if not value]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The jobs' keys, newest first. `more`: there is at least one beyond them, in the direction of the search.

    `searched_to`: the search reached its bounds here, after `looked_at` rows; rows beyond it were not read.
    """

    keys: list[Key]
    more: bool
    searched_to: Key | None
    looked_at: int

    def told(self, *, newest: bool, older: bool = True) -> str:
        """Describe how far the search came, if it reached its bounds; `newest`: it began with the newest job of all."""
        if self.searched_to is None:
            return ""
        what = "These are all that match" if self.keys else "Nothing matches"
        which = f"the {self.looked_at:,} newest" if newest else f"the next {self.looked_at:,}"
        to = f"{self.searched_to[0].astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{what} among {which} jobs, {'back' if older else 'up'} to {to}."


def search(db: Db, wanted: Wanted, *, start: Key | None = None, older: bool = True, most: int) -> Found:
    """Find the first `most` jobs from a key on, without it; raises TooSlow if there is no answer in time."""
    stretch = _stretch(wanted, start, older=older)
    reads = Scan(db, wanted.asked(), most=most + 1)  # one more shows whether there are more
    if wanted.account is not None:  # its own jobs are together, in the order of lists
        own = reads.walk(OF_ACCOUNT, wanted.fits(wanted.states), stretch, first=wanted.account)
        if own is None:
            raise TooSlow(wanted.not_given())
        return _merged([own], most, older=older)
    parts, states = list[Part](), list[str]()
    for state in wanted.states:
        # If succeeded jobs are wanted, the walk that finds them also reads all other jobs.
        part = None if State.SUCCEEDED in wanted.states else _by_its_index(reads, wanted, stretch, state)
        if part is None:
            states.append(state)
        else:
            parts.append(part)
    if states or not wanted.states:
        walked: Stretch | None = stretch
        if states == [State.QUEUED] and older:
            walked = _where_any_waits(reads, wanted, stretch)
        part = reads.walk(ALL, wanted.fits(states), walked) if walked else Part(keys=[])
        if part is None:
            raise TooSlow(wanted.not_given())
        parts.append(part)
    return _merged(parts, most, older=older)


def _stretch(wanted: Wanted, start: Key | None, *, older: bool) -> Stretch:
    after = None if wanted.after is None else (wanted.after, HIGHEST)
    before = None if wanted.before is None else (wanted.before, LOWEST)
    if start is not None and older:
        before = min(start, before or start)
    elif start is not None:
        after = max(start, after or start)
    return Stretch(after=after, before=before, older=older)


def _by_its_index(reads: Scan, wanted: Wanted, stretch: Stretch, state: str) -> Part | None:
    """Find the jobs of a state without reading all jobs; None if that is not quick."""
    if state in RETRYABLE:
        return reads.walk(ENDED_BADLY, wanted.fits([]), stretch, first=state)
    if state in ("scheduled", "retrying"):
        return reads.walk(LATER, wanted.fits([state]), stretch, first=state == "retrying")
    fits = wanted.fits([state])
    if state == State.RUNNING:
        return reads.collect(RUNNING.format(fits=fits), stretch, scan.MOST_RUNNING)
    with_hint = reads.collect(PUBLISHED.format(fits=fits), stretch, scan.MOST_COLLECTED)
    without = with_hint and reads.collect(
        UNPUBLISHED.format(fits=fits, where=wanted.lists()), stretch, scan.MOST_COLLECTED
    )
    return with_hint and without and _together(with_hint, without, older=stretch.older)


def _where_any_waits(reads: Scan, wanted: Wanted, stretch: Stretch) -> Stretch | None:
    """Exclude jobs newer than any waiting job, because many may have run behind a paused queue.

    Return None if no job waits. A job that was due when it was submitted became due within a second; all other waiting
    jobs are in an index in the order of lists, or have a hint.
    """
    fits = wanted.fits([State.QUEUED])
    with_hint = reads.collect(PUBLISHED.format(fits=fits), stretch, scan.MOST_COLLECTED)
    if with_hint is None:
        return stretch
    due = reads.fetch(f"WITH {NEWEST_DUE.format(where=wanted.lists())}", stretch.asked())
    later = [reads.walk(LATER, fits, stretch, first=retrying, glance=True) for retrying in (False, True)]
    parts = [with_hint, *later]
    if due is None or None in parts:
        return stretch
    newest = [part.keys[0] if part.keys else part.reached for part in parts if part]
    moments = [key[0] for key in newest if key] + [at for (at,) in due if at]
    if not moments:
        return None
    top = (max(moments), HIGHEST)
    return replace(stretch, before=min(top, stretch.before or top))


def _together(one: Part, other: Part, *, older: bool) -> Part:
    """Combine two parts up to the point that both have reached; the rest waits for the next search."""
    ends = [part.reached for part in (one, other) if part.reached is not None]
    end = (max(ends) if older else min(ends)) if ends else None
    keys = {key for key in one.keys + other.keys if end is None or (key >= end if older else key <= end)}
    looked_at = max(part.looked_at for part in (one, other))
    return Part(keys=sorted(keys, reverse=older), reached=end, looked_at=looked_at)


def _merged(parts: Sequence[Part], most: int, *, older: bool) -> Found:
    whole = parts[0]
    for part in parts[1:]:
        whole = _together(whole, part, older=older)
    more = len(whole.keys) > most
    return Found(
        keys=sorted(whole.keys[:most], reverse=True),
        more=more,
        searched_to=None if more else whole.reached,
        looked_at=whole.looked_at,
    )
