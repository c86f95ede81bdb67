"""Parse requests of the API: JSON in UTF-8 only, no field twice, no unknown query parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import register_converter
from ninja.parser import Parser

from esteira.errors import Mistake
from esteira.values import json_text
from esteira.values.misfits import Place
from esteira_web.server.problems import Problem, Told, invalid
from esteira_web.server.query_strings import not_text


class JsonParser(Parser):
    """Parses a body; raises Told with the reason if the body cannot be read."""

    def parse_body(self, request: HttpRequest) -> Any:
        _refuse_other_content(request)
        document, twice = read_json(request.body)
        if twice:
            raise Told(invalid([Mistake(code=json_text.TWICE, at=at) for at in twice]))
        return document


def read_json(content: bytes) -> tuple[Any, list[Place]]:
    """Return a document, and the places where it has a field more than once; raises Told if it is not JSON."""
    try:
        return json_text.read(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _unreadable(f"The body is not UTF-8: byte {error.start} does not begin a character.") from None
    except json_text.TooDeep:
        raise _unreadable("The body is nested too deeply to be read.") from None
    except ValueError as error:
        raise _unreadable(f"The body is not JSON: {error}.") from None


class AnyId:
    """A UUID in an address, in lower or upper case: both are the same id."""

    regex = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

    def to_python(self, value: str) -> UUID:
        return UUID(value)

    def to_url(self, value: UUID | str) -> str:
        return str(value)


register_converter(AnyId, "id")


def _unreadable(detail: str) -> Told:
    return Told(Problem(code="bad-request", status=400, detail=detail))


def _refuse_other_content(request: HttpRequest) -> None:
    """Raise Told unless the body is JSON in UTF-8; the content type may be absent."""
    kind, charset = (request.content_type or "").lower(), request.content_params or {}
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise _other(
            f"Content-Encoding: {coding} is not supported; send the body without encoding.",
            {"Accept-Encoding": "identity"},
        )
    is_json = kind in ("", "application/json") or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json:
        raise _other(f"Content-Type: {kind} is not supported; send application/json.")
    if (said := charset.get("charset", "utf-8").lower()) not in ("utf-8", "utf8"):
        raise _other(f"The charset {said} is not supported; send JSON in UTF-8.")


def _other(detail: str, headers: Mapping[str, str] | None = None) -> Told:
    return Told(Problem(code="unsupported-media-type", status=415, detail=detail, headers=headers or {}))


# --- Query strings ----------------------------------------------------------------------------------------------------


def known_only(run: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Decorate an operation's `run`: note query parameters that are unknown, or given twice but take one value."""
    models = [one for one in run.__self__.models if one.__ninja_param_source__ == "query"]  # type: ignore[attr-defined]
    fields = {name: one for model in models for name, one in _fields(model)}

    @wraps(run)
    def noted(request: HttpRequest, **values: Any) -> HttpResponseBase:
        if query := request.META.get("QUERY_STRING", ""):
            found = not_text(query)
            said = {one.parameter for one in found}
            found += [one for one in _query_mistakes(request, fields) if one.parameter not in said]
            request.query_mistakes = found  # type: ignore[attr-defined]
        return run(request, **values)

    return noted


def _fields(model: Any) -> Iterator[tuple[str, bool]]:
    many = getattr(model, "__ninja_collection_fields__", ())
    return ((name, name in many) for name in model.__ninja_flatten_map__)


def _query_mistakes(request: HttpRequest, known: Mapping[str, bool]) -> Iterator[Mistake]:
    for name, values in request.GET.lists():
        if name not in known:
            code = "unknown-query-parameter" if known else "no-query-parameters"
            yield Mistake(code=code, parameter=name, values={"known": list(known)})
        elif len(values) > 1 and not known[name]:
            yield Mistake(code="given-several-times", parameter=name, values={"count": len(values)})


def refuse_mistakes(view: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an operation's function: refuse the noted mistakes, after the caller was authenticated."""

    @wraps(view)
    def refusing(request: HttpRequest, **values: Any) -> Any:
        if found := noted(request):
            raise Told(invalid(found))
        return view(request, **values)

    return refusing


def noted(request: HttpRequest) -> list[Mistake]:
    """Return the mistakes that were noted in a request's query."""
    found: list[Mistake] = getattr(request, "query_mistakes", [])
    return found
