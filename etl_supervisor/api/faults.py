"""Every error of the API has one form: {"error", "message", "details", "timestamp"}. Nothing in it is a secret or a value that was sent.

A `Fault` is raised by our own code; an EtlError of the layers below keeps its reason and remedy and gets the status of its kind; what nobody
foresaw is logged with its traceback and told as an InternalServerError.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from etl_supervisor.api import catalogue
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.repository.connection import trouble

log = structlog.get_logger()

# What the framework raises by itself.
_PLAIN = {400: "BadRequestError", 404: "NotFoundError", 405: "MethodNotAllowedError"}


class ErrorBody(BaseModel):
    """What every error looks like."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": "EntityNotFoundError",
                "message": "Source with id '123' not found",
                "details": {"entity_type": "Source", "entity_id": "123"},
                "timestamp": "2024-01-14T00:00:00Z",
            }
        }
    )

    error: str = Field(description="Name of the error, for programs")
    message: str = Field(description="What is wrong, for people")
    details: dict[str, Any] = Field(description="The objects it is about")
    timestamp: str = Field(description="When it happened, UTC")


class Fault(HTTPException):
    """An answer that is an error; FastAPI lets it through where it swallows others (while it reads a body)."""

    def __init__(
        self, status: int, error: str, message: str, headers: dict[str, str] | None = None, **details: Any
    ) -> None:
        super().__init__(status, message, headers)
        self.error, self.message, self.details = error, message, details


def not_found(entity: str, key: object) -> Fault:
    """There is no such thing, or it is another tenant's."""
    message = f"{entity} with id '{key}' not found"
    return Fault(404, "EntityNotFoundError", message, entity_type=entity, entity_id=str(key))


def conflict(message: str, **details: Any) -> Fault:
    """What is asked for does not go with what is there."""
    return Fault(409, "ConflictError", message, **details)


def invalid(field: str, reason: str) -> Fault:
    """A value can't be taken."""
    return Fault(422, "ValidationError", f"{field}: {reason}", errors=[{"field": field, "reason": reason}])


def body(error: str, message: str, details: dict[str, Any]) -> dict[str, Any]:
    """The form."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"error": error, "message": message, "details": details, "timestamp": now}


def answer(fault: Fault) -> JSONResponse:
    """A fault as a response."""
    return JSONResponse(body(fault.error, fault.message, fault.details), fault.status_code, headers=fault.headers)


def from_etl_error(error: EtlError) -> Fault:
    """What a layer below said."""
    status, name = catalogue.status_of(error.kind), catalogue.name_of(error.kind)
    message = f"{error.place}: {error.reason}"
    return Fault(status, name, message, kind=str(error.kind), place=error.place, remedy=error.remedy)


def install(app: FastAPI) -> None:
    """Every way to fail ends in the form."""
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(EtlError, _on_etl_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(psycopg.Error, _on_database)
    app.add_exception_handler(UnicodeEncodeError, _on_unstorable)
    app.add_exception_handler(psycopg.DataError, _on_unstorable)
    app.add_exception_handler(sqlalchemy.exc.TimeoutError, _on_full_pool)
    app.add_exception_handler(Exception, _on_anything)


async def _on_fault(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Fault)
    return answer(error)


async def _on_etl_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EtlError)
    return answer(from_etl_error(error))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [{"field": _field(item["loc"]), "reason": _reason(item)} for item in error.errors()]
    message = "; ".join(f"{item['field']}: {item['reason']}" for item in wrong)
    return answer(Fault(422, "ValidationError", message, errors=wrong))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    name = _PLAIN.get(status, "InternalServerError")
    message = {
        404: f"There is nothing at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }.get(status, str(error.detail))
    headers = {"Allow": ", ".join(_methods(request))} if status == 405 else None
    return answer(Fault(status, name, message, headers, method=request.method, path=request.url.path))


def _methods(request: Request) -> list[str]:
    """Those that the path has: the framework names those of the first route alone."""
    found = set()
    for template, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), request.url.path):
            found |= {method.upper() for method in methods}
    return sorted(found) or ["GET"]  # pages and their files are no part of the description


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, psycopg.Error)
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        remedy = "run `etl-supervisor migrate`"
        missing = error.diag.message_primary
        known = EtlError(
            Kind.CONFIG_DATABASE, "config database", f"its migrations have not been run: {missing}", remedy
        )
        return answer(from_etl_error(known))
    if isinstance(error, psycopg.OperationalError):
        return answer(from_etl_error(trouble(error)))
    return await _on_anything(request, error)


async def _on_unstorable(_: Request, __: Exception) -> JSONResponse:
    reason = "it has characters that PostgreSQL does not take (a zero byte, half of a surrogate pair)"
    return answer(Fault(422, "ValidationError", f"a value: {reason}", errors=[{"field": "a value", "reason": reason}]))


async def _on_full_pool(_: Request, __: Exception) -> JSONResponse:
    remedy = "raise DB_POOL_SIZE or DB_MAX_OVERFLOW, or ask less"
    return answer(
        from_etl_error(EtlError(Kind.CONFIG_DATABASE, "connection pool", "every connection is in use", remedy))
    )


async def _on_anything(request: Request, error: Exception) -> JSONResponse:
    log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return answer(Fault(500, "InternalServerError", "Something went wrong; the log of the API says what"))


def _field(place: Sequence[Any]) -> str:
    """`body.pg_port` as people write it: `pg_port`."""
    words = [str(word) for word in place if word not in ("body", "query", "path", "header")]
    return ".".join(words) or str(place[0])


def _reason(item: dict[str, Any]) -> str:
    return str(item["msg"]).removeprefix("Value error, ")
