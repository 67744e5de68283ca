"""Every error that the API can answer with: its name, its status, and when. A test holds this against the code that raises them, docs/api.md and
what `/openapi.json` says of each route.

An error of the layers below (an EtlError) has a name made from its kind: `source_setup` is told as SourceSetupError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from etl_supervisor.errors import Kind


@dataclass(frozen=True, slots=True)
class Known:
    """One error. `status` is None for what is told in an operation alone."""

    name: str
    status: int | None
    when: str


OWN = (
    Known("BadRequestError", 400, "the body is not UTF-8, or nested too deeply"),
    Known("AuthenticationError", 401, "no key, or one that is not known, expired or revoked"),
    Known("PermissionDeniedError", 403, "the key's role or tenant may not"),
    Known("EntityNotFoundError", 404, "no such object, or it is another tenant's"),
    Known("NotFoundError", 404, "no such path"),
    Known("MethodNotAllowedError", 405, "the path has no such method; `Allow` names those it has"),
    Known("ConflictError", 409, "a name that is taken, an object in use, a field that can't be changed"),
    Known("PreconditionFailedError", 412, "`If-Match` names another version than there is"),
    Known("PayloadTooLargeError", 413, "the body is larger than `API_BODY_MAX_KB`"),
    Known("ValidationError", 422, "a value can't be taken; `details.errors` names each field"),
    Known("IdempotencyKeyError", 422, "the `Idempotency-Key` was used with another body"),
    Known(
        "StatementRefusedError",
        422,
        "the source's PostgreSQL refuses what was asked for: no such table, a filter that is no expression",
    ),
    Known("RateLimitError", 429, "more requests per second than `API_RATE_LIMIT`; `Retry-After` says when"),
    Known("InternalServerError", 500, "the log says what, under the answer's `X-Request-ID`"),
    Known("TooManyStreamsError", 503, "too many event streams are open; `Retry-After` says when"),
    Known("OperationLostError", None, "in an operation: the process that worked at it ended"),
)
_STATUS = {
    Kind.CONFIG: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.CONFIG_DATABASE: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.STATE_STORE: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}  # every other kind is about a source or a destination that does not do what we ask of it: 502


def status_of(kind: Kind) -> int:
    """The status of an EtlError."""
    return int(_STATUS.get(kind, HTTPStatus.BAD_GATEWAY))


def name_of(kind: Kind) -> str:
    """The name of an EtlError, for programs."""
    return "".join(word.capitalize() for word in kind.split("_")) + "Error"


def everything() -> Iterator[Known]:
    """All of them: our own, then one for each kind."""
    yield from OWN
    for kind in Kind:
        yield Known(name_of(kind), status_of(kind), f"kind `{kind}`")


def of_status(status: int) -> list[Known]:
    """Those of one status."""
    return [known for known in everything() if known.status == status]
