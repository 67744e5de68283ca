"""Every error in full: status, name, message and details, as a client gets them. What is in the catalogue is provoked here."""

import ast
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from etl_supervisor.api import catalogue, faults
from etl_supervisor.api.routes.watching import STREAMS_MAX
from etl_supervisor.errors import EtlError, Kind
from tests.api.test_resources import error
from tests.support.fix_api import DESTINATION, PIPELINE, SOURCE, Api

ROOT = Path(__file__).parents[2]
FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LOG_SAYS = "Something went wrong; the log of the API says what"
UNSTORABLE = "it has characters that PostgreSQL does not take (a zero byte, half of a surrogate pair)"


def no_key(api: Api) -> httpx.Response:
    with api.nobody() as nobody:
        return nobody.get("/api/v1/sources")


def unknown_key(api: Api) -> httpx.Response:
    return api.get("/api/v1/sources", headers={"Authorization": "Bearer etl_00000000_" + "x" * 43})


def by(
    role: str, method: str, path: str, body: Any = None, tenant: str | None = None
) -> Callable[[Api], httpx.Response]:
    def ask(api: Api) -> httpx.Response:
        with api.as_(role, tenant) as client:
            return client.request(method, f"/api/v1/{path}", json=body)

    return ask


def ask(method: str, path: str, body: Any = None, **headers: str) -> Callable[[Api], httpx.Response]:
    return lambda api: api.request(method, f"/api/v1/{path}", json=body, headers=headers)


def bytes_of(content: bytes) -> Callable[[Api], httpx.Response]:
    return lambda api: api.post("/api/v1/sources", content=content, headers={"Content-Type": "application/json"})


def other_tenants_end(api: Api) -> httpx.Response:
    api.post("/api/v1/destinations", json=DESTINATION | {"name": "theirs", "tenant": "acme"})
    return api.post("/api/v1/pipelines", json=PIPELINE | {"name": "p", "destination_id": 2})


def another_body_with_the_key(api: Api) -> httpx.Response:
    headers = {"Idempotency-Key": "one"}
    api.post("/api/v1/sources", json=SOURCE | {"name": "s", "replication_id": 2}, headers=headers)
    return api.post("/api/v1/sources", json=SOURCE | {"name": "t", "replication_id": 3}, headers=headers)


def broken_database(api: Api) -> httpx.Response:
    api.database.execute("alter table app.sources rename column pg_host to pg_host_")
    try:  # the server and its database are those of every other test
        return api.get("/api/v1/sources/1")
    finally:
        api.database.execute("alter table app.sources rename column pg_host_ to pg_host")


def lost_operation(api: Api) -> httpx.Response:
    key = "00000000-0000-0000-0000-000000000001"
    api.database.execute(
        "insert into app.operations (id, tenant, who, kind, target, status, beat_at)"
        f" values ('{key}', 'default', 'x', 'replay', 'pipeline 1', 'running', now() - interval '1 hour')"
    )
    return api.get(f"/api/v1/operations/{key}")


def too_many_streams(api: Api) -> httpx.Response:
    with contextlib.ExitStack() as stack, api.as_("viewer") as client:
        streams = [stack.enter_context(client.stream("GET", "/api/v1/events")).iter_raw() for _ in range(STREAMS_MAX)]
        for stream in streams:
            next(stream)
        return api.get("/api/v1/events")


def of_fields(**reasons: str) -> tuple[str, dict[str, Any]]:
    """Message and details of a ValidationError."""
    message = "; ".join(f"{field}: {reason}" for field, reason in reasons.items())
    return message, {"errors": [{"field": field, "reason": reason} for field, reason in reasons.items()]}


def missing(entity: str, key: str) -> tuple[str, dict[str, Any]]:
    return f"{entity} with id '{key}' not found", {"entity_type": entity, "entity_id": key}


NOWHERE = {
    "kind": "source_unreachable",
    "place": "source production-postgres",
    "remedy": "check pg_host, pg_port and the network",
}
EXAMPLES: list[tuple[str, Callable[[Api], httpx.Response], tuple[str, dict[str, Any]]]] = [
    (
        "BadRequestError",
        bytes_of(b'"\xff"'),
        ("There was an error parsing the body", {"method": "POST", "path": "/api/v1/sources"}),
    ),
    (
        "BadRequestError",
        bytes_of(b"[" * 100_000),
        ("There was an error parsing the body", {"method": "POST", "path": "/api/v1/sources"}),
    ),
    (
        "AuthenticationError",
        no_key,
        ("An API key is needed: Authorization: Bearer etl_… (make one with `etl-supervisor api-key create`)", {}),
    ),
    ("AuthenticationError", unknown_key, ("The API key is not known, expired or revoked", {})),
    (
        "PermissionDeniedError",
        by("viewer", "POST", "pipelines/1/start"),
        ("This needs the role operator; the key has viewer", {"role": "viewer", "needed": "operator"}),
    ),
    (
        "PermissionDeniedError",
        by("admin", "POST", "sources", SOURCE | {"tenant": "other"}, "acme"),
        ("The key belongs to tenant acme", {"tenant": "acme"}),
    ),
    (
        "PermissionDeniedError",
        by("admin", "POST", "api-keys", {"name": "k", "tenant": "other"}, "acme"),
        ("The key belongs to tenant acme", {"tenant": "acme"}),
    ),
    (
        "PermissionDeniedError",
        by("admin", "GET", "pool", None, "acme"),
        ("This is for keys of all tenants", {"tenant": "acme"}),
    ),
    ("EntityNotFoundError", ask("GET", "sources/123"), missing("Source", "123")),
    ("EntityNotFoundError", ask("DELETE", "destinations/123"), missing("Destination", "123")),
    ("EntityNotFoundError", by("admin", "GET", "pipelines/1", None, "acme"), missing("Pipeline", "1")),
    ("EntityNotFoundError", ask("DELETE", "api-keys/nothing1"), missing("ApiKey", "nothing1")),
    (
        "EntityNotFoundError",
        ask("GET", "operations/00000000-0000-0000-0000-000000000009"),
        missing("Operation", "00000000-0000-0000-0000-000000000009"),
    ),
    ("EntityNotFoundError", ask("POST", "pipelines/1/resync", {"table": "t"}), missing("Table", "public.t")),
    (
        "NotFoundError",
        ask("GET", "nothing"),
        ("There is nothing at /api/v1/nothing", {"method": "GET", "path": "/api/v1/nothing"}),
    ),
    (
        "MethodNotAllowedError",
        ask("POST", "sources/1"),
        ("POST is not allowed at /api/v1/sources/1", {"method": "POST", "path": "/api/v1/sources/1"}),
    ),
    (
        "ConflictError",
        ask("POST", "sources", SOURCE),
        ("Source with name 'production-postgres' exists already", {"entity_type": "Source", "field": "name"}),
    ),
    (
        "ConflictError",
        ask("POST", "sources", SOURCE | {"name": "s"}),
        ("Source with replication_id '1' exists already", {"entity_type": "Source", "field": "replication_id"}),
    ),
    (
        "ConflictError",
        ask("DELETE", "sources/1"),
        (
            "Source production-postgres is used by pipelines; delete them first",
            {"entity_type": "Source", "entity_id": "1"},
        ),
    ),
    (
        "ConflictError",
        ask("PATCH", "sources/1", {"name": "new"}),
        ("name of Source production-postgres can't be changed: its state is kept under it", {"field": "name"}),
    ),
    (
        "PreconditionFailedError",
        ask("PATCH", "sources/1", {"pg_port": 1}, **{"If-Match": '"1-0"'}),
        (
            "Source production-postgres has been changed since: read it again",
            {"entity_type": "Source", "entity_id": "1"},
        ),
    ),
    (
        "PayloadTooLargeError",
        bytes_of(b" " * ((1 << 20) + 1)),
        ("The body is larger than 1048576 bytes", {"bytes_max": 1 << 20}),
    ),
    ("ValidationError", ask("GET", "sources/0"), of_fields(key="Input should be greater than or equal to 1")),
    (
        "ValidationError",
        ask("PATCH", "pipelines/1", {"status": "stop", "batch_max_size": 0}),
        of_fields(
            status="Input should be 'START' or 'PAUSE'", batch_max_size="Input should be greater than or equal to 1"
        ),
    ),
    ("ValidationError", ask("GET", "metrics/wal?to=0.5"), of_fields(to="write it as 2024-01-31T12:00:00Z")),
    ("ValidationError", ask("GET", "sources?cursor=x"), of_fields(cursor="it is not a next_cursor of this list")),
    (
        "ValidationError",
        ask("POST", "pipelines", PIPELINE | {"name": "p", "source_id": 9}),
        of_fields(source_id="Source with id '9' not found"),
    ),
    (
        "ValidationError",
        other_tenants_end,
        of_fields(destination_id="the destination belongs to another tenant than the source"),
    ),
    (
        "ValidationError",
        ask("PATCH", "sources/1", {"heartbeat_seconds": 0.01}),
        of_fields(Source="a value breaks the rule: heartbeat_seconds is 0 (off) or 0.1 to 86400"),
    ),
    (
        "ValidationError",
        ask("PATCH", "destinations/1", {"settings": {"a\0": "b"}}),
        of_fields(**{"a value": UNSTORABLE}),
    ),
    (
        "IdempotencyKeyError",
        another_body_with_the_key,
        ("Idempotency-Key: it was used with another body", {"idempotency_key": "one"}),
    ),
    ("InternalServerError", broken_database, (LOG_SAYS, {})),
    ("TooManyStreamsError", too_many_streams, (f"{STREAMS_MAX} streams are open", {})),
    (
        "SourceUnreachableError",
        ask("GET", "sources/1/tables"),
        ("source production-postgres: 127.0.0.1:1 does not answer", NOWHERE),
    ),
    (
        "ConfigError",
        ask("PATCH", "pipelines/1", {"apply": "append", "apply_history": True}),
        (
            "pipeline production-to-snowflake: apply append keeps no target of its own, so neither deleted rows nor a history",
            {
                "kind": "config",
                "place": "pipeline production-to-snowflake",
                "remedy": "use apply merge, view or task for it",
            },
        ),
    ),
]


@pytest.mark.parametrize(
    ("name", "provoke", "told"), EXAMPLES, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(EXAMPLES)]
)
def test_an_error_is_told_in_full(
    api: Api, name: str, provoke: Callable[[Api], httpx.Response], told: tuple[str, Any]
) -> None:
    api.filled()
    api.database.execute("update app.sources set pg_host = '127.0.0.1', pg_port = 1")
    answer = provoke(api)
    message, details = told
    (known,) = [known for known in catalogue.everything() if known.name == name]
    assert error(answer) == (known.status, name, message, details)
    assert FORM.fullmatch(answer.json()["timestamp"])
    assert answer.headers["Content-Type"] == "application/json"


def test_the_headers_of_errors_say_what_to_do(api: Api) -> None:
    api.filled()
    assert no_key(api).headers["WWW-Authenticate"] == "Bearer"
    assert api.post("/api/v1/sources/1").headers["Allow"] == "DELETE, GET, PATCH, PUT"
    assert too_many_streams(api).headers["Retry-After"] == "10"


def test_an_operation_whose_process_died_says_so_in_full(api: Api) -> None:
    told = lost_operation(api).json()["error"]
    assert FORM.fullmatch(told.pop("timestamp"))
    message = "The process that worked at it ended; look what it did, and ask again"
    assert told == {"error": "OperationLostError", "message": message, "details": {}}


def test_a_state_store_that_does_not_answer_is_told_in_full(api_server: Callable[..., Api]) -> None:
    api = api_server(STATE_STORE="redis", REDIS_URL="redis://127.0.0.1:1", API_RATE_LIMIT="5", API_KEY_DIRECTORY="/")
    api.database.execute(
        "insert into app.sources (name, pg_host, pg_database, pg_username, publication_name) values ('s', 'h', 'd', 'u', 'p')"
    )
    assert api.post("/api/v1/destinations", json=DESTINATION).status_code == 201
    asked = api.post("/api/v1/pipelines", json=PIPELINE)
    assert error(asked) == (
        503,
        "StateStoreError",
        "Redis: tables failed: ConnectionError",
        {
            "kind": "state_store",
            "place": "Redis",
            "remedy": "check REDIS_URL and the server; rows go on, confirmations wait",
        },
    )
    answers = [api.get("/api/v1/sources") for _ in range(30)]
    late = next(answer for answer in answers if answer.status_code == 429)
    assert error(late) == (429, "RateLimitError", "More than 5 requests per second", {"limit": 5})


@pytest.mark.parametrize("kind", Kind)
def test_what_a_layer_below_says_keeps_its_reason_and_remedy(kind: Kind) -> None:
    fault = faults.from_etl_error(EtlError(kind, "source shop", "it is so", "do this"))
    (known,) = [known for known in catalogue.everything() if known.name == fault.error]
    assert (fault.status_code, fault.message) == (known.status, "source shop: it is so")
    assert fault.details == {"kind": str(kind), "place": "source shop", "remedy": "do this"}


def raised() -> Iterator[tuple[int | None, str]]:
    """(status, name) of every error that the code writes out."""
    for path in sorted((ROOT / "etl_supervisor" / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Fault" and len(node.args) > 1:
                status, name = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(name, ast.Constant):
                    yield status.value, name.value


def test_the_catalogue_has_every_error_that_the_code_raises_and_no_other() -> None:
    from_framework = {("BadRequestError", 400), ("NotFoundError", 404), ("MethodNotAllowedError", 405)}
    in_operations = {("OperationLostError", None)}
    found = {(name, status) for status, name in raised()} | from_framework | in_operations
    assert found == {(known.name, known.status) for known in catalogue.OWN}


def test_every_error_of_our_own_has_an_example_in_full() -> None:
    elsewhere = {"RateLimitError", "OperationLostError", "StatementRefusedError"}  # the last in test_publications
    assert {known.name for known in catalogue.OWN} - elsewhere <= {name for name, *_ in EXAMPLES}


def test_the_page_of_the_api_lists_every_error() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    rows = [
        f"| {known.status or '-'} | `{known.name}` | {known.when} |"
        for known in sorted(catalogue.everything(), key=by_status)
    ]
    assert "\n".join(rows) + "\n\n" in page


def by_status(known: catalogue.Known) -> tuple[int, str]:
    return known.status or 1000, known.name
