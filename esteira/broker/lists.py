"""Read the values of Esteira's keys in Redis with bounded cost, whatever other programs have stored there.

Every program with access to the same Redis may write into Esteira's lists, or store another type of value under one of
its names. A message longer than any hint is cut off inside Redis, messages are counted, and a key of a wrong type is
deleted: the lost hints are found missing and published again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import redis

from esteira.broker.hint import BINDINGS, LISTS, UNACKED, UNACKED_INDEX, UNACKED_MUTEX, behind_key, list_key

#: Longer than any hint: one of 250 jobs with the longest names has half of this.
LONGEST_BYTES = 32 * 1024
#: How many messages Redis collects in memory at once, however long they are.
CHUNK = 50

_READ = """
local found = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
for at, message in ipairs(found) do
  if #message > tonumber(ARGV[3]) then found[at] = '' end
end
return found
"""


def is_wrong_type(answer: object) -> bool:
    """Return whether Redis answered that a key has another type than the command needs; scripts wrap this error."""
    return isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer)


def raise_errors(answers: Sequence[object]) -> bool:
    """Raise the first error of a pipeline, except for keys of a wrong type; return whether there were any of those."""
    for answer in answers:
        if isinstance(answer, Exception) and not is_wrong_type(answer):
            raise answer
    return any(map(is_wrong_type, answers))


def read(client: Any, wanted: Sequence[tuple[str, int, int]]) -> list[tuple[list[bytes], bool]]:
    """Read parts of lists (key, first message, how many), newest first, in one round trip.

    Return each part with whether the list's end was seen. If a list grows or shrinks meanwhile, a message may be
    returned twice, but none is missed that was there all the time: messages arrive before the first and leave after the
    last.
    """
    pipe = client.pipeline(transaction=False)
    chunks = [list(_chunks(first, count)) for _, first, count in wanted]
    for (key, _, _), parts in zip(wanted, chunks, strict=True):
        for first, count in parts:
            pipe.eval(_READ, 1, key, first, first + count - 1, LONGEST_BYTES)
    answers = pipe.execute(raise_on_error=False)
    raise_errors(answers)
    found = iter(answers)
    return [_joined(list(islice(found, len(parts))), parts) for parts in chunks]


def _chunks(first: int, count: int) -> Iterator[tuple[int, int]]:
    for at in range(first, first + count, CHUNK):
        yield at, min(CHUNK, first + count - at)


def _joined(answers: Sequence[Any], parts: Sequence[tuple[int, int]]) -> tuple[list[bytes], bool]:
    pieces = [[] if is_wrong_type(answer) else answer for answer in answers]
    ended = any(len(piece) < count for piece, (_, count) in zip(pieces, parts, strict=True))
    return [message for piece in pieces for message in piece], ended


def lengths(client: Any, keys: Sequence[str]) -> dict[str, int]:
    """Return how many messages each list holds; 0 for a key of a wrong type."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.llen(key)
    answers = pipe.execute(raise_on_error=False)
    raise_errors(answers)
    return {key: 0 if is_wrong_type(answer) else answer for key, answer in zip(keys, answers, strict=True)}


def replace_wrong_types(client: Any, prefix: str, queues: Sequence[str]) -> dict[str, str]:
    """Delete keys under Esteira's and kombu's names that have a wrong type; return the types of the deleted ones."""
    wanted = _types(prefix, queues)
    pipe = client.pipeline(transaction=False)
    for key in wanted:
        pipe.type(key)
    types = {key: answer.decode() for key, answer in zip(wanted, pipe.execute(), strict=True)}
    wrong = {key: kind for key, kind in types.items() if kind not in ("none", wanted[key])}
    if wrong:
        client.delete(*wrong)
    return wrong


def _types(prefix: str, queues: Sequence[str]) -> Mapping[str, str]:
    types = {list_key(prefix, queue, number): "list" for queue in queues for number in LISTS}
    types.update({behind_key(prefix, queue): "string" for queue in queues})
    types.update({f"{prefix}{UNACKED}": "hash", f"{prefix}{UNACKED_INDEX}": "zset"})
    types.update({f"{prefix}{UNACKED_MUTEX}": "string"})
    return {**types, **{f"{prefix}{name}": "set" for name in BINDINGS}}
