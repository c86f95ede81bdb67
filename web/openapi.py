"""The API's description (OpenAPI 3.1), with every job type's parameters in it, so that clients can be made from it."""

from __future__ import annotations

from typing import Any

from esteira.registry import JobType, registry
from web.problems import CONTENT_TYPE

UPLOAD_BODY: dict[str, Any] = {
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


def with_job_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Add a schema for each job type's request, and say that errors are problem documents."""
    parts = schema["components"]["schemas"]
    known = registry.all()
    for kind in known:
        parts.update(_parts(kind))
    if known:
        parts["SubmitJob"]["oneOf"] = [{"$ref": f"#/components/schemas/{kind.name}"} for kind in known]
    for path in schema["paths"].values():
        for operation in path.values():
            for response in operation.get("responses", {}).values():
                _name_problems(response)
    return schema


def _parts(kind: JobType) -> dict[str, Any]:
    """Return a request of this type as a schema, and the ones it refers to, under names of its own."""
    template = f"#/components/schemas/{kind.name}.{{model}}"
    params = {**kind.model.model_json_schema(ref_template=template), "title": kind.title}
    inner = {f"{kind.name}.{name}": part for name, part in params.pop("$defs", {}).items()}
    request = {
        "title": kind.title,
        "description": kind.help,
        "type": "object",
        "properties": {"type": {"const": kind.name}, "params": params},
        "required": ["type", "params"] if params.get("required") else ["type"],
    }
    return {kind.name: request, **inner}


def _name_problems(response: dict[str, Any]) -> None:
    content = response.get("content", {})
    body = content.get("application/json", {})
    if body.get("schema", {}).get("$ref", "").endswith("/ProblemBody"):
        response["content"] = {CONTENT_TYPE: body}
