"""The error answers of the API's operations, and the request headers that several operations take."""

from __future__ import annotations

from esteira_web.api import schemas
from esteira_web.api.openapi import IF_NONE_MATCH, KEY, RANGE

COMMON = (400, 401, 403, 422, 429, 500, 503)
READ_ERRORS = dict.fromkeys(COMMON, schemas.ProblemBody)
LOOK_ERRORS = dict.fromkeys((*COMMON, 404), schemas.ProblemBody)
SUBMIT_ERRORS = dict.fromkeys((*COMMON, 409, 410, 413, 415), schemas.ProblemBody)
STEER_ERRORS = dict.fromkeys((*COMMON, 404, 409, 410, 413, 415), schemas.ProblemBody)
UPLOAD_ERRORS = dict.fromkeys((*COMMON, 408, 409, 410, 413, 507), schemas.ProblemBody)
REPEATABLE = {"parameters": [KEY]}
UNCHANGED = {"parameters": [IF_NONE_MATCH]}
OF_A_FILE = {"parameters": [IF_NONE_MATCH, RANGE]}
