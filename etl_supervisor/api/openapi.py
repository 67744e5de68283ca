"""What `/openapi.json` says beyond the routes themselves: which errors each of them can answer with, and the headers of those.

The rules are few and look at the description alone, so that a new route is described without a word of its own: what a path or a query names may not
be there (404), what changes something may not go with the rest (409), what takes `If-Match` may come too late (412), and what lies below an
object (`/sources/{key}/tables`) may need an end that does not answer (502).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from etl_supervisor.api import catalogue
from etl_supervisor.api.faults import ErrorBody

ALWAYS = (413, 429, 500)  # said before a route sees the request, or when one broke
WITH_A_KEY = (401, 403, 422, 503)
_HEADERS = {
    401: ("WWW-Authenticate", "Bearer"),
    429: ("Retry-After", "Seconds"),
    503: ("Retry-After", "Seconds, for an event stream"),
}
_FRAMEWORKS = ("HTTPValidationError", "ValidationError")  # its own form of an error, which is never sent
_REFERENCE = {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}


def install(app: FastAPI) -> None:
    """Let the application describe itself with its errors."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        description = plain()
        _complete(description)  # again and again is the same
        return description

    app.openapi = described  # type: ignore[method-assign] # as FastAPI's manual extends it


def _complete(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    schemas.setdefault(ErrorBody.__name__, ErrorBody.model_json_schema())
    for name in _FRAMEWORKS:
        schemas.pop(name, None)
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            responses = operation["responses"]
            responses.pop("422", None)  # the framework's
            for status in statuses(path, method, operation):
                responses.setdefault(str(status), _response(status))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is left out is not there: no text of it is null."""
    choices: list[dict[str, Any]] = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]


def statuses(path: str, method: str, operation: dict[str, Any]) -> Iterator[int]:
    """The errors that a route can answer with."""
    yield from ALWAYS
    if "security" not in operation:
        return
    yield from WITH_A_KEY
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    if "requestBody" in operation:
        yield 400
    if "{" in path or any(name.endswith("_id") for name in parameters):
        yield 404
    if method != "get":
        yield 409
    if "if-match" in parameters:
        yield 412
    if "}/" in path:
        yield 502


def _response(status: int) -> dict[str, Any]:
    found = catalogue.of_status(status)
    response: dict[str, Any] = {
        "description": "; ".join(f"{known.name}: {known.when}" for known in found),
        "content": {"application/json": {"schema": _REFERENCE}},
    }
    if status in _HEADERS:
        name, meaning = _HEADERS[status]
        response["headers"] = {name: {"schema": {"type": "string"}, "description": meaning}}
    return response
