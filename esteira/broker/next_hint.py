"""Take a queue's next hint of several jobs of one type, if it is the one that a worker would read next.

A pool process that has just finished such a hint takes the next one itself. Celery's parent process would need another
millisecond for each, and with short jobs that is an eighth of all work. Any other message stays where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from django.conf import settings

from esteira.broker import publisher
from esteira.broker.hint import LISTS, ids_in, list_key, marks_of_a_batch
from esteira.broker.lists import LONGEST_BYTES

log = logging.getLogger("esteira.broker")

#: Returns the ids of the jobs of the next hint; none if there is no such hint.
NextHint = Callable[[], Sequence[str]]

# The lists are read in the order of their priorities, and each from its right end, as kombu does.
_TAKE = f"""
for _, key in ipairs(KEYS) do
  local last = redis.call('LINDEX', key, -1)
  if last then
    if #last <= {LONGEST_BYTES} and string.find(last, ARGV[1], 1, true) and string.find(last, ARGV[2], 1, true) then
      return redis.call('RPOP', key)
    end
    return false
  end
end
return false
"""


def of(type: str, queue: str) -> NextHint:
    """Return a function that takes the next hint of this type from this queue."""
    keys = [list_key(settings.REDIS_PREFIX, queue, number) for number in LISTS]
    return partial(_take, keys, marks_of_a_batch(type))


def _take(keys: Sequence[str], marks: tuple[str, str]) -> Sequence[str]:
    message = publisher.fast.read(lambda client: client.eval(_TAKE, len(keys), *keys, *marks))
    if not isinstance(message, bytes):
        return ()
    try:
        return ids_in(message)
    except ValueError as error:
        log.warning("a message with the name of a job type was not a hint; it is dropped: %s", error)
        return ()
