"""The English templates of the errors of API, pages, admin and command line; `esteira.wording` puts them together."""

from __future__ import annotations

from esteira import wording

wording.add(
    {
        # --- Rights and sign-in ---
        "forbidden": "This account or token lacks the right {scope}. {help}, or use a token with more rights.",
        "forbidden-type": "This account or token may submit jobs of {allowed:list} only, not of {name!r}.",
        "too-many-passwords": "Too many passwords are being checked at this moment. Try again in "
        "{retry_after_s:time}.",
        "too-many-failures": "There were too many failed sign-ins from here. Try again in {retry_after_s:time}.",
        # --- Requests ---
        "bad-key": "The header Idempotency-Key must be 1 to 255 printable ASCII characters.",
        "removed": "The first request with this Idempotency-Key made {kind:noun} {name}, which was removed. Nothing "
        "was made again. To make a new one, send the request with another Idempotency-Key.",
        "removed.batch": "The first request with this Idempotency-Key made {count} jobs, which were removed. Nothing "
        "was made again. To make a new one, send the request with another Idempotency-Key.",
        "bad-filter": "The filter has no meaning.",
        "bad-lookup": "The query has no meaning.",
        "unknown-field": "is not a field of this request; remove it or check its spelling.",
        "unknown-query-parameter": "is not one of {known:list}.",
        "no-query-parameters": "is not a parameter of this address; remove it.",
        "given-several-times": "is given {count} times, but takes one value.",
        "not-utf-8": "is not UTF-8.",
        "nul-in-address": "contains a NUL character; remove it.",
        "too-many-jobs": "is longer than the limit of {most:,} in one request.",
        "not-a-moment-of-the-api": "must be a date and time with a time zone, such as 2026-01-31T09:00:00Z.",
        "not-a-moment-in-address": "must be a date and time with a time zone, such as 2026-01-31T09:00:00Z; in an "
        "address, + is a space: write %2B for it, or Z.",
        "no-file-name": "is required: POST /api/v1/files?name=photo.jpg, or send multipart/form-data.",
        "other-file-field": "send the file in the field `file`, not in another field.",
        "not-one-file": "send exactly one file per request.",
        # --- Filters of lists ---
        "not-a-cursor": "is not a cursor of this server; start from the first page.",
        "only-spaces-in-filter": "contains only spaces; remove them.",
        "not-a-filter": "is not a filter of this list; remove it.",
        "not-offered": "must be a value that the list offers, not {given}.",
        "not-a-page": "must be the number of a page, from 1, not {given}.",
        "not-an-order": "must be numbers of columns with dots between them, such as 1.-2, not {given}.",
        "cannot-be-filtered": "this list cannot be filtered like this ({reason}); start again from the list without a "
        "filter.",
        "not-a-moment-of-the-list": "must be a date and time with a time zone, such as 2026-01-31 09:00:00+00:00, not "
        "{given}.",
        # --- Tokens ---
        "limited-role": "only a submitter's token can be limited to job types, not a {role}'s.",
        "too-many-types": "has {count} job types or patterns; at most {most} are allowed.",
        "not-a-pattern": "{given} is neither the name of a job type nor a pattern such as email.*.",
        "no-superuser": "there is no superuser yet; give --user NAME, or run `{command} createsuperuser`.",
        "several-superusers": "there are several superusers; name the owner of the token: --user NAME.",
        # --- The command line ---
        "usage": "The command has a mistake.",
        "several-usage": "{mistakes:fields}",
        "usage.option": "--{option}: {mistake}",
        "usage.folder": "--save {folder}: {reason}.",
        "usage.token": "name the token: its number, or its first characters, as in `jobs tokens`.",
        "usage.parameter": "{word!r} is not a parameter: write name=text, name:=JSON, or --file name=path.",
        "usage.file": "--file {word!r}: write --file name=path.",
        "unreadable": "The value of an option cannot be read.",
        "no-duration": "{given} is no duration: write 90, 90s, 5m, 1h30m or 2d.",
        "no-moment": "{given} is no date and time: write {example}.",
        "no-zone": "{text!r} has no time zone: write {example} or {other}.",
        "no-count": "{given} must be a whole number from {least:,} to {most:,}.",
        "unmet": "The command needs something that is missing.",
        "unmet.job-types": "The demonstration needs {missing:list}: add the package `jobs` to JOB_PACKAGES.",
        "unmet.sample": "The sample photograph is missing: {path}.",
        "unmet.mail": "{path} contains no mail of this job",
        "unmet.damaged": "{path} is damaged: its checksum differs from the stored checksum.",
        "no-such-type": "There is no job type {name!r}. `{command}` lists them all.",
        "no-such-type.near": "There is no job type {name!r}. Did you mean {near:or}? `{command}` lists them all.",
        "not-an-id": "{given} is not the id of a {kind:noun}: give the whole id, or at least its last {shortest} "
        "digits.",
        "ambiguous": "Several ids end with {ref}: {ids:list}.",
        "ambiguous.token": "Several tokens begin with {ref}: give the number of one of them, {numbers:list}.",
        "unknown-parameter.near": "is not a parameter of this job type; did you mean {near!r}?",
        "takes-a-file": "takes a file: --file {name}={given}",
        "takes-no-file": "does not take a file: write {name}=…",
        "no-such-file": "there is no file {path}.",
        "no-such-file.in-container": "there is no file {path} in this container; copy it with `{line}`, then use "
        "--file {name}={inside}.",
        "file-not-readable": "{path} exists, but user {user} may not read it.",
        "not-json-text": "is not JSON: {reason}.",
    }
)
