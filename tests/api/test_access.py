"""Who may do what, what is written down about it, and what is kept out."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from etl_supervisor.api.app import PREFIX, create_app
from etl_supervisor.api.guard import LET_IN, Rates, digest
from etl_supervisor.config.settings import load
from tests.api.test_resources import error
from tests.support import least
from tests.support.fix_api import DESTINATION, SOURCE, Api

CHANGES_BY_OPERATORS = {
    "start",
    "pause",
    "resync",
    "retry",
    "test",
    "validate",
    "replay",
    "drop",
    "verify",
    "test-alert",
}


def routes(tmp_path: Any) -> dict[tuple[str, str], str]:
    """(method, path) of everything in /api/v1 -> the role that its route asks for."""
    environment = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "SECRET_KEY": "0123456789" * 4}
    app = create_app(load(tmp_path, environment))
    roles = {}
    waiting: list[Any] = list(app.routes)
    for route in waiting:
        waiting += getattr(getattr(route, "original_router", None), "routes", [])
        if isinstance(route, APIRoute):
            asked = [str(sub.call.role) for sub in route.dependant.dependencies if hasattr(sub.call, "role")]
            for method in route.methods or ():
                roles[method, PREFIX + route.path] = asked[0] if len(asked) == 1 else "nobody asks"
    paths = app.openapi()["paths"].items()
    asked_for = [(method.upper(), path) for path, methods in paths for method in methods if path.startswith(PREFIX)]
    return {place: roles[place] for place in asked_for}


def test_every_route_asks_for_a_role(tmp_path: Any) -> None:
    for (method, path), role in routes(tmp_path).items():
        last = path.rsplit("/", 1)[-1]
        if method == "GET":
            assert role in ("viewer", "admin"), path
        elif last in CHANGES_BY_OPERATORS:
            assert role == "operator", path
        else:
            assert role == "admin", path


def test_without_a_key_nothing_is_told(api: Api) -> None:
    with api.nobody() as nobody:
        answer = nobody.get("/api/v1/sources")
        assert error(answer) == (
            401,
            "AuthenticationError",
            "An API key is needed: Authorization: Bearer etl_… (make one with `etl-supervisor api-key create`)",
            {},
        )
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        for key in ("etl_00000000_" + "x" * 43, "x", "etl_"):
            wrong = nobody.get("/api/v1/sources", headers={"X-API-Key": key})
            assert error(wrong)[:3] == (401, "AuthenticationError", "The API key is not known, expired or revoked")


def test_a_key_ends_when_it_is_revoked_or_expires(api: Api) -> None:
    made = api.post("/api/v1/api-keys", json={"name": "bot", "role": "viewer"}).json()
    with api.nobody() as client:
        client.headers["X-API-Key"] = made["key"]
        assert client.get("/api/v1/sources").status_code == 200
        assert api.delete(f"/api/v1/api-keys/{made['prefix']}").status_code == 204
        assert client.get("/api/v1/sources").status_code == 401
        client.headers["X-API-Key"] = api.key("viewer", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert client.get("/api/v1/sources").status_code == 401
    assert error(api.delete("/api/v1/api-keys/nothing1"))[:3] == (
        404,
        "EntityNotFoundError",
        "ApiKey with id 'nothing1' not found",
    )


def test_the_database_has_no_key_that_could_be_used(api: Api) -> None:
    made = api.post("/api/v1/api-keys", json={"name": "bot"}).json()
    everything = api.database.execute("select k::text from app.api_keys k") + api.database.execute(
        "select a::text from app.audit_log a"
    )
    secret = made["key"].rsplit("_", 1)[-1] if "_" not in made["key"][13:] else made["key"][13:]
    assert secret not in str(everything) + api.log
    assert made["key"] not in api.get("/api/v1/api-keys").text


def test_a_key_of_a_tenant_sees_nothing_else(api: Api) -> None:
    api.filled()
    with api.as_("admin", "acme") as acme:
        assert acme.get("/api/v1/sources").json() == {"items": [], "next_cursor": None}
        assert error(acme.get("/api/v1/sources/1"))[:2] == (404, "EntityNotFoundError")
        for method in ("PATCH", "DELETE"):
            assert acme.request(method, "/api/v1/sources/1", json={}).status_code == 404
        own = acme.post("/api/v1/sources", json=SOURCE | {"name": "acme", "replication_id": 7})
        assert own.json()["tenant"] == "acme"
        mixed = {"name": "p", "source_id": own.json()["id"], "destination_id": 1}
        assert (
            error(acme.post("/api/v1/pipelines", json=mixed))[2] == "destination_id: Destination with id '1' not found"
        )
        assert error(api.post("/api/v1/pipelines", json=mixed))[2] == (
            "destination_id: the destination belongs to another tenant than the source"
        )
        foreign = acme.post("/api/v1/destinations", json=DESTINATION | {"tenant": "other", "name": "d"})
        assert error(foreign)[:3] == (403, "PermissionDeniedError", "The key belongs to tenant acme")
        entries = acme.get("/api/v1/audit-log").json()["items"]
        assert {entry["tenant"] for entry in entries} == {"acme"}
        assert acme.get("/api/v1/settings").status_code == 403
        key = acme.post("/api/v1/api-keys", json={"name": "k", "role": "admin"}).json()["key"]
        assert (
            acme.get("/api/v1/sources", headers={"Authorization": f"Bearer {key}"}).json()["items"][0]["name"] == "acme"
        )
        assert acme.post("/api/v1/api-keys", json={"name": "k", "tenant": "other"}).status_code == 403


def test_every_change_is_in_the_audit_log_with_secrets_masked(api: Api) -> None:
    api.filled()
    api.patch("/api/v1/sources/1", json={"pg_port": 6432, "pg_password": "another secret"})
    with api.as_("operator") as operator:
        operator.post("/api/v1/pipelines/1/start")
    api.delete("/api/v1/pipelines/1")
    answer = api.get("/api/v1/audit-log")
    assert "another secret" not in answer.text
    assert "SecurePassword123!" not in answer.text
    assert "v1:" not in answer.text
    newest_first = answer.json()["items"]
    told = [(item["action"], item["entity"], item["entity_id"], item["who"].split(" (")[0]) for item in newest_first]
    assert told == [
        ("delete", "Pipeline", "1 production-to-snowflake", "a admin"),
        ("start", "Pipeline", "1 production-to-snowflake", "a operator"),
        ("update", "Source", "1 production-postgres", "a admin"),
        ("create", "Pipeline", "1 production-to-snowflake", "a admin"),
        ("create", "Destination", "1 snowflake-production", "a admin"),
        ("create", "Source", "1 production-postgres", "a admin"),
    ]
    start, update, create = newest_first[1], newest_first[2], newest_first[5]
    assert (start["before"], start["after"]) == ({"status": "PAUSE"}, {"status": "START"})
    assert update["before"] == {"pg_port": 5432, "pg_password": "***"}
    assert update["after"] == {"pg_port": 6432, "pg_password": "*** (new)"}
    assert (create["before"], create["after"]["pg_password"]) == (None, "***")


def test_a_change_that_is_refused_is_not_in_the_audit_log(api: Api) -> None:
    api.post("/api/v1/sources", json=SOURCE)
    api.post("/api/v1/sources", json=SOURCE)
    assert len(api.get("/api/v1/audit-log").json()["items"]) == 1


def test_settings_are_shown_without_secrets(api: Api) -> None:
    answer = api.get("/api/v1/settings")
    shown = {item["name"]: item["value"] for item in answer.json()}
    assert (shown["SECRET_KEY"], shown["DATABASE_URL"], shown["DB_POOL_SIZE"]) == ("***", "***", "20")
    assert "a secret key of a test" not in answer.text


def test_the_pool_keeps_connections(api: Api) -> None:
    api.get("/api/v1/sources")
    status = api.get("/api/v1/pool").json()
    assert (status["size"], status["max_overflow"], status["checked_out"]) == (20, 10, 0)
    assert status["idle"] >= 1


def test_a_connection_that_died_is_not_used(api: Api) -> None:
    assert api.get("/api/v1/sources").status_code == 200
    api.database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'etl-stream api'"
        " and datname = current_database()"
    )
    assert api.get("/api/v1/sources").status_code == 200


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    large = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    for content in (large, iter([large])):  # one says its length, one comes in chunks
        answer = api.post("/api/v1/sources", content=content, headers={"Content-Type": "application/json"})
        assert error(answer) == (
            413,
            "PayloadTooLargeError",
            "The body is larger than 1048576 bytes",
            {"bytes_max": 1048576},
        )


def test_every_answer_has_security_headers_and_an_id(api: Api) -> None:
    for path in ("/health", "/api/v1/sources", "/nothing", "/docs"):
        headers = api.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert len(headers["X-Request-ID"]) == 32


def test_a_bucket_lets_through_what_was_agreed() -> None:
    now = 0.0
    rates = Rates(lambda *_: asyncio.sleep(0), 10, clock=lambda: now)  # type: ignore[arg-type, return-value]
    assert [rates.take("a") for _ in range(21)] == [True] * 20 + [False]
    assert rates.take("b")
    now = 0.1
    assert [rates.take("a"), rates.take("a")] == [True, False]


def test_who_asks_too_often_is_told_to_wait(api_server: Callable[..., Api]) -> None:
    api = api_server(API_RATE_LIMIT="5", API_CORS_ORIGINS="https://console.example.com")
    answers = [api.get("/api/v1/sources") for _ in range(30)]
    late = next(answer for answer in answers if answer.status_code == 429)
    assert error(late) == (429, "RateLimitError", "More than 5 requests per second", {"limit": 5})
    assert late.headers["Retry-After"] == "1"
    with api.nobody() as nobody:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}
        good = nobody.options("/api/v1/sources", headers={"Origin": "https://console.example.com", **asked})
        assert good.headers["Access-Control-Allow-Origin"] == "https://console.example.com"
        bad = nobody.options("/api/v1/sources", headers={"Origin": "https://evil.example.com", **asked})
        assert "Access-Control-Allow-Origin" not in bad.headers


def test_keys_that_are_made_up_have_one_limit_together_that_of_their_address(api_server: Callable[..., Api]) -> None:
    api = api_server(API_RATE_LIMIT="5")
    assert api.get("/api/v1/sources").status_code == 200  # from now on this key has a limit of its own
    with api.nobody() as nobody:
        made_up = [{"X-API-Key": f"etl_{number:08x}_{'x' * 43}"} for number in range(30)]
        statuses = [nobody.get("/api/v1/sources", headers=headers).status_code for headers in made_up]
        assert set(statuses) == {401, 429}
        assert statuses.count(401) < 20
        assert nobody.get("/health", headers=made_up[0]).status_code == 429, "it is no key's request, so the address's"
    assert api.get("/api/v1/sources").status_code == 200, "a good key does not suffer"


def test_a_good_key_with_made_up_ones_beside_it_has_one_limit(api_server: Callable[..., Api]) -> None:
    api = api_server(API_RATE_LIMIT="5")
    for _ in range(2):
        answers = [api.get("/api/v1/sources", headers={"X-API-Key": f"etl_{n:08x}_x"}) for n in range(20)]
    assert [answer.status_code for answer in answers].count(200) < 15


def test_a_key_that_was_revoked_is_its_address_again() -> None:
    key, told = "a key", []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        good = len(told) < 2
        if good:
            scope["state"][LET_IN] = digest(key)
        await send({"type": "http.response.start", "status": 200 if good else 401})

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    rates = Rates(app, 1, clock=lambda: 0.0)  # each bucket holds two requests, and is never filled again

    def ask(client: str, word: bytes = b"bearer a key") -> int:
        asyncio.run(
            rates({"type": "http", "headers": [(b"authorization", word)], "client": (client, 1)}, receive, send)
        )
        return int(told[-1])

    first = ask("2001:db8::1")
    own = [ask("2001:db8::2"), ask("2001:db8::3")]
    revoked = [ask("2001:db8:0:0:f::"), ask("2001:db8::4")]
    assert (first, own, revoked) == (200, [200, 401], [401, 429])
    assert ask("2001:db8:0:1::1", b"bearer another") == 401, "another network has a bucket of its own"


def test_without_keys_only_this_machine_is_answered(api_server: Callable[..., Api]) -> None:
    api = api_server(API_AUTH="disabled")
    with api.nobody() as nobody:
        assert nobody.post("/api/v1/sources", json=SOURCE).status_code == 201
        for headers in ({"Host": "evil.example.com"}, {"Origin": "https://evil.example.com"}):
            assert error(nobody.get("/api/v1/sources", headers=headers))[:3] == (
                403,
                "PermissionDeniedError",
                "API_AUTH=disabled answers this machine alone; set API_AUTH=required and use a key",
            )


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"API_AUTH": "disabled", "API_ADDR": "0.0.0.0:1"},
            "etl-supervisor: config at API_AUTH: API_AUTH=disabled, but 0.0.0.0:1 can be reached by others"
            " (listen on 127.0.0.1, or set API_AUTH=required)",
        ),
        (
            {"API_ADDR": "192.0.2.1:80"},
            "etl-supervisor: config at API_ADDR: can't listen on 192.0.2.1:80: Cannot assign requested address"
            " (set API_ADDR to a free address of this machine)",
        ),
        (
            {"SECRET_KEY": ""},
            "etl-supervisor: config at SECRET_KEY: secrets at rest need a key"
            " (set SECRET_KEY (at least 32 characters), for example from: openssl rand -hex 32)",
        ),
    ],
)
def test_a_setting_that_can_not_be_is_one_line(tmp_path: Any, environment: dict[str, str], line: str) -> None:
    variables = {
        "PYTHONPATH": ":".join(sys.path),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
        "SECRET_KEY": "0123456789" * 4,
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-m", "etl_supervisor.api"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (78, line)


def test_the_command_line_makes_lists_and_revokes_keys(api: Api) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PYTHONPATH": ":".join(sys.path),
            "DATABASE_URL": least.config_role(api.database),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "etl_supervisor.cli.main", "api-key", *arguments]
        return subprocess.run(
            command, env=variables, cwd=api.log_path.parent, capture_output=True, text=True, check=False
        )

    key = run("create", "ops", "--role", "operator", "--days", "30").stdout.strip()
    with api.nobody() as client:
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/api/v1/sources").status_code == 200
        shown = run("list").stdout
        assert key[4:12] in shown
        assert key not in shown
        assert run("revoke", key[4:12]).returncode == 0
        assert client.get("/api/v1/sources").status_code == 401
    gone = run("revoke", "00000000")
    assert (gone.returncode, gone.stderr.strip()) == (
        78,
        "etl-supervisor: config at API key 00000000: there is no key of this prefix (see `etl-supervisor api-key list`)",
    )


def test_the_pages_load_nothing_from_elsewhere(api: Api) -> None:
    with api.nobody() as nobody:
        for page in ("/docs", "/redoc"):
            text = nobody.get(page).text
            sources = [
                word.split('"')[1] for word in text.replace("'", '"').split() if word.startswith(("src=", "href="))
            ]
            assert sources
            for source in sources:
                assert source.startswith("/docs-assets/"), source
                assert nobody.get(source).status_code == 200, source
        examples = nobody.get("/openapi.json").json()["components"]["schemas"]
        assert examples["SourceBody"]["example"] == SOURCE


def test_a_database_that_does_not_answer_is_told_as_such(api_server: Callable[..., Api]) -> None:
    api = api_server()
    api.database.execute("drop schema app cascade")
    answer = httpx.get(f"{api.url}/api/v1/sources", headers=api.client.headers)
    reason = 'its migrations have not been run: relation "app.api_keys" does not exist'
    assert error(answer)[:3] == (503, "ConfigDatabaseError", f"config database: {reason}")
