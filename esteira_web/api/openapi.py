"""The OpenAPI 3.1 description of the API, with the parameters of every job type, so that clients can be generated.

Names, statuses, headers and bounds are those of the answers; a rule that a JSON Schema cannot express (a cursor that
this server did not make, parameters over 64 KiB) is in a description.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from ninja import NinjaAPI

from esteira.broker.batching import known_queues
from esteira.job_types.registry import JobType
from esteira_web.api.requests import STORABLE
from esteira_web.server.problems import CONTENT_TYPE

Schema = dict[str, Any]
REF = "#/components/schemas/"
UPLOAD_BODY: Schema = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_BYTES: Schema = {
    one: {"schema": {"type": "string", "format": "binary"}}
    for one in ("application/octet-stream", "*/*")  # some generators do not support the second
}
FILE_ANSWER: Schema = {
    "responses": {
        200: {"description": "The file, with its own content type.", "content": _BYTES},
        206: {"description": "The requested part of the file.", "content": _BYTES},
    }
}
RANGE: Schema = {
    "name": "Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "One range of bytes, as in bytes=0-1023; any other value is answered with the whole file.",
}
KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": '^([!#-~][!-~]{0,254}|"[ -~]{1,255}")$'},
    "description": "1 to 255 printable ASCII characters, in quotes if there is a space among them. A repeat with the "
    "same key and request gets the first answer and has no further effect; 410 if the result was removed since then.",
}
IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The ETag of an earlier answer; 304 if nothing has changed since.",
}

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
HEADERS: Schema = {
    "Request-ID": {
        "description": "The id of this request in the server's log; the caller's own X-Request-ID if it is safe.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=-]{1,64}$"},
    },
    "Location": {"description": "The address of the result.", "required": True, "schema": _TEXT},
    "Poll": {
        "description": "Ask again after this number of seconds; absent when the job has ended.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "Try again after this number of seconds.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Replayed": {
        "description": "This is the answer to an earlier request with this key.",
        "schema": {"const": "true"},
    },
    "ETag": {"description": "For If-None-Match.", "required": True, "schema": _TEXT},
    "Link": {"description": "The next and the previous page (RFC 8288).", "schema": _TEXT},
    "Challenge": {
        "description": "The authentication scheme to use.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Encodings": {"description": "The accepted content encodings of a body.", "schema": _TEXT},
    "Ranges": {"description": "A range of the file can be requested.", "schema": {"const": "bytes"}},
    "Range": {
        "description": "The range of these bytes, and the size of the file.",
        "required": True,
        "schema": _TEXT,
    },
    "Disposition": {"description": "The file's name.", "required": True, "schema": _TEXT},
}
OF_A_FILE = {"ETag": "ETag", "Content-Disposition": "Disposition", "Accept-Ranges": "Ranges"}
#: The headers of an operation's successful answer, in addition to the one that all answers have.
OF_OPERATION: dict[str, dict[str, str]] = {
    "submit_job": {"Location": "Location", "Retry-After": "Poll", "Idempotency-Replayed": "Replayed"},
    "submit_jobs": {"Idempotency-Replayed": "Replayed"},
    "cancel_job": {"Idempotency-Replayed": "Replayed"},
    "retry_job": {"Location": "Location", "Retry-After": "Poll", "Idempotency-Replayed": "Replayed"},
    "list_jobs": {"Link": "Link"},
    "get_job": {"ETag": "ETag", "Retry-After": "Poll"},
    "upload_file": {"Location": "Location", "Idempotency-Replayed": "Replayed"},
    "list_uploads": {"Link": "Link"},
    "get_file": OF_A_FILE,
    "get_upload_content": OF_A_FILE,
}
OF_STATUS: dict[str, dict[str, str]] = {
    "206": {**OF_A_FILE, "Content-Range": "Range"},
    "304": {"ETag": "ETag"},
    "401": {"WWW-Authenticate": "Challenge"},
    "409": {"Retry-After": "Retry-After"},
    "415": {"Accept-Encoding": "Encodings"},
    "416": {"Content-Range": "Range", "Accept-Ranges": "Ranges"},
    "429": {"Retry-After": "Retry-After"},
    "503": {"Retry-After": "Retry-After"},
}
SECURITY: Schema = {
    "BearerToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token that `manage.py jobs token` made, with the rights of its role.",
    },
    "Session": {
        "type": "apiKey",
        "in": "cookie",
        "name": settings.SESSION_COOKIE_NAME,
        "description": "The session of a user who signed in on the pages. A request that changes something needs the "
        "header X-CSRFToken as well.",
    },
}


def described(api: NinjaAPI, job_types: Iterable[JobType]) -> Schema:
    """Return the description of the API with these job types."""
    told: Schema = json.loads(json.dumps(api.get_openapi_schema()))
    parts = told["components"]["schemas"]
    known = list(job_types)
    parts["SubmitOptions"]["properties"]["queue"]["anyOf"][0]["enum"] = known_queues()
    for job_type in known:
        parts.update(_parts(job_type))
    if known:
        parts["SubmitJob"] = _any_of(known)
    for path, operations in told["paths"].items():
        told["paths"][path] = {
            method: _described(one) for method, one in operations.items() if method != "head"
        }
    told["components"]["headers"] = HEADERS
    told["components"]["securitySchemes"] = SECURITY
    told["servers"] = [{"url": settings.WEB_URL or "/"}]
    return told


def _parts(job_type: JobType) -> Schema:
    """Return the schema of a request of this type, and the schemas that it refers to, under names of this type."""
    params = {
        **job_type.model.model_json_schema(ref_template=f"{REF}{job_type.name}.{{model}}"),
        "title": f"{job_type.name} parameters",
    }
    inner = {f"{job_type.name}.{name}": part for name, part in params.pop("$defs", {}).items()}
    for one in (params, *inner.values()):
        _keep_out_nul(one)
    request: Schema = {
        "title": job_type.name,
        "description": f"{job_type.title}.\n\n{job_type.help}".strip(),
        "type": "object",
        "properties": {
            "type": {"const": job_type.name, "type": "string"},
            "params": {"$ref": f"{REF}{job_type.name}.params"},
            "options": {"$ref": f"{REF}SubmitOptions"},
        },
        "required": ["type", "params"] if params.get("required") else ["type"],
        "additionalProperties": False,
    }
    if (example := _example(params)) is not None:
        request["examples"] = [{"type": job_type.name, "params": example}]
    return {job_type.name: request, f"{job_type.name}.params": params, **inner}


def _any_of(known: list[JobType]) -> Schema:
    where = {job_type.name: f"{REF}{job_type.name}" for job_type in known}
    return {
        "title": "SubmitJob",
        "description": "A request to run a job type once.",
        "oneOf": [{"$ref": one} for one in where.values()],
        "discriminator": {"propertyName": "type", "mapping": where},
    }


def _example(params: Schema) -> Schema | None:
    """Return an example of the parameters; None if a required parameter has no example in its declaration."""
    named = {name: params["properties"][name] for name in params.get("required", [])}
    if not all(one.get("examples") for one in named.values()):
        return None
    return {name: one["examples"][0] for name, one in named.items()}


def _keep_out_nul(node: Any) -> None:
    """Add a pattern that excludes NUL to every text, unless its own schema is stricter."""
    if isinstance(node, dict):
        if node.get("type") == "string" and not node.keys() & {"pattern", "format", "enum", "const"}:
            node["pattern"] = STORABLE["pattern"]
        for key, value in node.items():
            if key not in ("default", "examples", "const", "enum"):
                _keep_out_nul(value)
    elif isinstance(node, list):
        for value in node:
            _keep_out_nul(value)


def _described(operation: Schema) -> Schema:
    name = (
        operation["operationId"]
        .removeprefix("esteira_web_api_")
        .removeprefix("routes_")
        .removeprefix("files_")
    )
    for parameter in operation["parameters"]:
        if parameter["in"] == "query":
            parameter["schema"] = _in_an_address(parameter["schema"])
    return {**operation, "operationId": name, "responses": dict(_answers(name, operation["responses"]))}


def _in_an_address(schema: Schema) -> Schema:
    """Remove null from the schema of a query parameter, which is left out instead; exclude NUL from its texts."""
    told = dict(schema)
    while some := [one for one in told.pop("anyOf", []) if one != {"type": "null"}]:
        told |= some[0]
    _keep_out_nul(told)
    return told


def _answers(name: str, answers: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    for status, answer in sorted(answers.items()):
        special = OF_STATUS.get(status, {}) or (OF_OPERATION.get(name, {}) if status < "300" else {})
        content = answer.get("content", {})
        body = content.get("application/json", {})
        if body.get("schema", {}).get("$ref", "").endswith("/ProblemBody"):
            content = {CONTENT_TYPE: body}
        headers = {"X-Request-ID": "Request-ID", **special}
        told = {
            **answer,
            "headers": {one: {"$ref": f"#/components/headers/{part}"} for one, part in headers.items()},
            "content": content,
        }
        yield status, told if content else {key: value for key, value in told.items() if key != "content"}
