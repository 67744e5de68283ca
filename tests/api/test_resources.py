"""Sources, destinations and pipelines through a running server, on a real config database."""

import concurrent.futures
import contextlib
import json
from typing import Any

import pytest

from etl_supervisor.api.routes.configured import destinations, pipelines, sources
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.repository.desired import load
from etl_supervisor.state.choose import open_store
from tests.support.fix_api import DESTINATION, PIPELINE, SOURCE, Api


def error(answer: Any) -> tuple[int, str, str, dict[str, Any]]:
    """An error, with the form looked at."""
    body = answer.json()
    assert set(body) == {"error", "message", "details", "timestamp"}
    assert body["timestamp"].endswith("Z")
    return answer.status_code, body["error"], body["message"], body["details"]


def test_what_the_getting_started_page_sends_is_made_and_runs(api: Api) -> None:
    source = api.post("/api/v1/sources", json=SOURCE)
    assert (source.status_code, source.headers["Location"]) == (201, "/api/v1/sources/1")
    assert api.post("/api/v1/destinations", json=DESTINATION).status_code == 201
    pipeline = api.post("/api/v1/pipelines", json=PIPELINE)
    assert pipeline.status_code == 201
    assert pipeline.json().items() >= PIPELINE.items()
    (spec,) = load(api.settings).specs
    assert (spec.source.name, spec.source.pg_host) == ("production-postgres", "postgres.example.com")
    assert api.settings.keyring().decrypt(spec.source.pg_password) == "SecurePassword123!"


def test_a_source_comes_back_without_its_password(api: Api) -> None:
    made = api.post("/api/v1/sources", json=SOURCE)
    read = api.get("/api/v1/sources/1")
    assert "SecurePassword123!" not in made.text + read.text + api.get("/api/v1/sources").text + api.log
    assert made.json() == read.json()
    told = {key: value for key, value in SOURCE.items() if key != "pg_password"}
    assert read.json().items() >= {**told, "pg_password_set": True, "primary_url_set": False}.items()
    ((stored,),) = api.database.execute("select pg_password from app.sources")
    assert stored.startswith("v1:")


@pytest.mark.parametrize("table", ["sources", "destinations", "pipelines"])
def test_every_column_can_be_seen(api: Api, table: str) -> None:
    api.filled()
    columns = api.database.execute(
        "select column_name from information_schema.columns where table_schema = 'app' and table_name = %s", table
    )
    shown = {name.removesuffix("_set") for name in api.get(f"/api/v1/{table}/1").json()}
    assert shown >= {name for (name,) in columns}


@pytest.mark.parametrize("table", ["sources", "destinations", "pipelines"])
def test_a_list_shows_what_one_answer_shows(api: Api, table: str) -> None:
    api.filled()
    (item,) = api.get(f"/api/v1/{table}").json()["items"]
    assert item == api.get(f"/api/v1/{table}/1").json()


def test_the_defaults_are_those_of_the_database(api: Api) -> None:
    api.filled()
    with api.database.connect() as connection:
        connection.execute(
            "insert into app.pipelines (name, source_id, destination_id) values ('plain', 1, 1);"
            "insert into app.sources (name, pg_host, pg_database, pg_username, publication_name)"
            " values ('plain', 'postgres.example.com', 'myapp_production', 'replication_user', 'dbz_publication')"
        )
    for table in ("pipelines", "sources"):
        made, plain = api.get(f"/api/v1/{table}").json()["items"]
        own = {"id", "name", "created_at", "updated_at", "replication_id", "pg_password_set"}
        assert {key: value for key, value in made.items() if key not in own} == {
            key: value for key, value in plain.items() if key not in own
        }


def test_a_patch_changes_what_it_names_and_nothing_else(api: Api) -> None:
    api.filled()
    before = api.get("/api/v1/sources/1").json()
    after = api.patch("/api/v1/sources/1", json={"pg_host": "other", "heartbeat_seconds": 5}).json()
    differs = {key for key in after if after[key] != before[key]}
    assert differs == {"pg_host", "heartbeat_seconds", "updated_at"}
    api.patch("/api/v1/pipelines/1", json={"status": "START"})
    (spec,) = load(api.settings).specs
    assert api.settings.keyring().decrypt(spec.source.pg_password) == "SecurePassword123!"


def test_a_put_without_the_secret_keeps_it_and_sets_the_rest_to_the_defaults(api: Api) -> None:
    api.filled(status="START")
    api.patch("/api/v1/sources/1", json={"transfer": "text"})
    body = {key: value for key, value in SOURCE.items() if key != "pg_password"}
    answer = api.put("/api/v1/sources/1", json=body)
    assert (answer.status_code, answer.json()["transfer"], answer.json()["pg_password_set"]) == (200, "auto", True)
    (spec,) = load(api.settings).specs
    assert api.settings.keyring().decrypt(spec.source.pg_password) == "SecurePassword123!"


def test_a_new_password_opens(api: Api) -> None:
    api.filled(status="START")
    api.patch("/api/v1/sources/1", json={"pg_password": "another"})
    (spec,) = load(api.settings).specs
    assert api.settings.keyring().decrypt(spec.source.pg_password) == "another"


def test_a_change_over_somebody_elses_is_refused(api: Api) -> None:
    api.filled()
    etag = api.get("/api/v1/sources/1").headers["ETag"]
    first = api.patch("/api/v1/sources/1", json={"pg_port": 1}, headers={"If-Match": etag})
    assert (first.status_code, first.headers["ETag"] != etag) == (200, True)
    second = api.patch("/api/v1/sources/1", json={"pg_port": 2}, headers={"If-Match": etag})
    assert error(second) == (
        412,
        "PreconditionFailedError",
        "Source production-postgres has been changed since: read it again",
        {"entity_type": "Source", "entity_id": "1"},
    )
    assert api.get("/api/v1/sources/1").json()["pg_port"] == 1
    api.database.execute("update app.sources set pg_port = 3")  # somebody at psql counts, too
    stale = api.delete("/api/v1/sources/1", headers={"If-Match": first.headers["ETag"]})
    assert stale.status_code == 412


def test_what_has_not_changed_is_not_sent_again(api: Api) -> None:
    api.filled()
    etag = api.get("/api/v1/sources/1").headers["ETag"]
    again = api.get("/api/v1/sources/1", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_create_that_is_sent_twice_is_done_once(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    first = api.post("/api/v1/sources", json=SOURCE, headers=headers)
    second = api.post("/api/v1/sources", json=SOURCE, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert (first.headers["Idempotent-Replayed"], second.headers["Idempotent-Replayed"]) == ("false", "true")
    other = api.post("/api/v1/sources", json=SOURCE | {"pg_password": "x"}, headers=headers)
    assert error(other) == (
        422,
        "IdempotencyKeyError",
        "Idempotency-Key: it was used with another body",
        {"idempotency_key": "one"},
    )
    assert len(api.get("/api/v1/sources").json()["items"]) == 1


def test_a_create_that_is_sent_ten_times_at_once_is_done_once(api: Api) -> None:
    def send(_: int) -> tuple[int, int]:
        answer = api.post("/api/v1/sources", json=SOURCE, headers={"Idempotency-Key": "one"})
        return answer.status_code, answer.json()["id"]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert set(pool.map(send, range(10))) == {(201, 1)}


def test_a_create_that_failed_may_be_sent_again_with_the_same_key(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    assert api.post("/api/v1/pipelines", json=PIPELINE, headers=headers).status_code == 422
    api.post("/api/v1/sources", json=SOURCE)
    api.post("/api/v1/destinations", json=DESTINATION)
    assert api.post("/api/v1/pipelines", json=PIPELINE, headers=headers).status_code == 201


def test_a_list_comes_in_pages(api: Api) -> None:
    for number in range(5):
        api.post("/api/v1/sources", json=SOURCE | {"name": f"s{number}", "replication_id": number + 10})
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/sources", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen.append([item["name"] for item in page["items"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [["s0", "s1"], ["s2", "s3"], ["s4"]]


def test_a_list_is_filtered(api: Api) -> None:
    api.filled()
    api.post("/api/v1/pipelines", json=PIPELINE | {"name": "second", "status": "START"})
    found = api.get("/api/v1/pipelines", params={"status": "START", "source_id": 1}).json()["items"]
    assert [item["name"] for item in found] == ["second"]
    assert error(api.get("/api/v1/pipelines", params={"colour": "red"})) == (
        422,
        "ValidationError",
        "colour: Extra inputs are not permitted",
        {"errors": [{"field": "colour", "reason": "Extra inputs are not permitted"}]},
    )


def test_a_pipeline_is_started_and_paused(api: Api) -> None:
    api.filled()
    assert api.post("/api/v1/pipelines/1/start").json()["status"] == "START"
    assert len(load(api.settings).specs) == 1
    assert api.post("/api/v1/pipelines/1/start").json()["status"] == "START"
    assert api.post("/api/v1/pipelines/1/pause").json()["status"] == "PAUSE"
    assert load(api.settings).specs == ()


def test_what_is_deleted_is_gone(api: Api) -> None:
    api.filled()
    assert error(api.delete("/api/v1/sources/1")) == (
        409,
        "ConflictError",
        "Source production-postgres is used by pipelines; delete them first",
        {"entity_type": "Source", "entity_id": "1"},
    )
    for path in ("pipelines", "sources", "destinations"):
        assert api.delete(f"/api/v1/{path}/1").status_code == 204
        assert api.get(f"/api/v1/{path}/1").status_code == 404


def test_a_new_pipeline_does_not_inherit_the_tables_of_an_older_one_of_its_name(api: Api) -> None:
    api.filled()
    source, pipeline = str(SOURCE["name"]), str(PIPELINE["name"])
    with contextlib.closing(open_store(api.settings)) as store:
        store.save_table(source, pipeline, TableState(TableName("s", "t"), oid=1, generation=1, phase=Phase.READY))
        api.delete("/api/v1/pipelines/1")
        api.post("/api/v1/pipelines", json=PIPELINE)
        assert store.tables(source, pipeline) == {}


ERRORS = [
    ("GET", "sources/123", None, 404, "EntityNotFoundError", "Source with id '123' not found"),
    (
        "GET",
        "sources/abc",
        None,
        422,
        "ValidationError",
        "key: Input should be a valid integer, unable to parse string as an integer",
    ),
    ("GET", "sources/0", None, 422, "ValidationError", "key: Input should be greater than or equal to 1"),
    ("GET", "nothing", None, 404, "NotFoundError", "There is nothing at /api/v1/nothing"),
    ("POST", "sources/1", None, 405, "MethodNotAllowedError", "POST is not allowed at /api/v1/sources/1"),
    ("POST", "sources", SOURCE, 409, "ConflictError", "Source with name 'production-postgres' exists already"),
    (
        "POST",
        "sources",
        SOURCE | {"name": "other"},
        409,
        "ConflictError",
        "Source with replication_id '1' exists already",
    ),
    (
        "POST",
        "sources",
        SOURCE | {"pg_port": 65536, "name": "a b"},
        422,
        "ValidationError",
        "name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'; pg_port: Input should be less than or equal to 65535",
    ),
    ("POST", "sources", SOURCE | {"pg_pass": "x"}, 422, "ValidationError", "pg_pass: Extra inputs are not permitted"),
    (
        "POST",
        "sources",
        [],
        422,
        "ValidationError",
        "body: Input should be a valid dictionary or object to extract fields from",
    ),
    (
        "POST",
        "sources",
        SOURCE | {"publication_name": 'a, "b'},
        422,
        "ValidationError",
        "publication_name: publication_name can't be read at character 3",
    ),
    ("POST", "sources", SOURCE | {"pg_host": "a\0b"}, 422, "ValidationError", "pg_host: a zero byte is not allowed"),
    (
        "POST",
        "pipelines",
        PIPELINE | {"name": "p", "source_id": 9},
        422,
        "ValidationError",
        "source_id: Source with id '9' not found",
    ),
    (
        "PATCH",
        "sources/1",
        {"name": "new"},
        409,
        "ConflictError",
        "name of Source production-postgres can't be changed: its state is kept under it",
    ),
    ("PATCH", "sources/1", {"pg_port": "5432"}, 422, "ValidationError", "pg_port: Input should be a valid integer"),
    (
        "PATCH",
        "sources/1",
        {"slot_failover": 0},
        422,
        "ValidationError",
        "slot_failover: Input should be a valid boolean",
    ),
    ("PATCH", "sources/1", {"pg_host": None}, 422, "ValidationError", "pg_host: Input should be a valid string"),
    (
        "PATCH",
        "sources/1",
        {"heartbeat_seconds": 0.01},
        422,
        "ValidationError",
        "Source: a value breaks the rule: heartbeat_seconds is 0 (off) or 0.1 to 86400",
    ),
    (
        "PATCH",
        "pipelines/1",
        {"apply_tables": {"t": {}}},
        422,
        "ValidationError",
        "apply_tables: write the table t as schema.table",
    ),
    (
        "PATCH",
        "pipelines/1",
        {"apply": "append", "apply_history": True},
        422,
        "ConfigError",
        "pipeline production-to-snowflake: apply append keeps no target of its own, so neither deleted rows nor a history",
    ),
    (
        "PATCH",
        "pipelines/1",
        {"apply_tables": {"s.t": {"apply": "often"}}},
        422,
        "ConfigError",
        "pipeline production-to-snowflake, table s.t: 'often' is not a valid ApplyMode",
    ),
    (
        "PATCH",
        "pipelines/1",
        {"apply_tables": {"s.t": {"cluster_by": "k"}}},
        422,
        "ConfigError",
        "pipeline production-to-snowflake, table s.t: cluster_by is no list of column names",
    ),
    ("GET", "sources?cursor=x", None, 422, "ValidationError", "cursor: it is not a next_cursor of this list"),
]


def test_every_error_says_what_is_wrong(api: Api) -> None:
    api.filled()
    for method, path, body, status, name, message in ERRORS:
        answer = (
            api.request(method, f"/api/v1/{path}", json=body)
            if body is not None
            else api.request(method, f"/api/v1/{path}")
        )
        assert error(answer)[:3] == (status, name, message), (method, path)


def patch(api: Api, path: str, body: object) -> Any:
    """PATCH with escapes in place of what UTF-8 can't say."""
    return api.patch(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


UNSTORABLE = "a value: it has characters that PostgreSQL does not take (a zero byte, half of a surrogate pair)"


def test_characters_that_can_not_be_stored_are_refused(api: Api) -> None:
    api.filled()
    asked = [
        api.get("/api/v1/sources", params={"name": "a\0b"}),
        api.patch("/api/v1/destinations/1", json={"settings": {"a\0": "b"}}),
        api.patch("/api/v1/pipelines/1", json={"apply_tables": {"s.\0": {}}}),
        patch(api, "/api/v1/pipelines/1", {"apply_tables": {"s.\ud800": {}}}),
        api.post("/api/v1/sources", json=SOURCE | {"name": "s"}, headers={"Idempotency-Key": "a%00"}),
    ]
    assert [answer.status_code for answer in asked] == [422, 422, 422, 422, 409]
    assert [error(answer)[2] for answer in asked[:3]] == ["name: a zero byte is not allowed", UNSTORABLE, UNSTORABLE]


@pytest.mark.slow
def test_strange_values_never_break_the_server(api: Api) -> None:
    api.filled()
    strange: list[Any] = [
        "",
        "\0",
        "x" * 5000,
        -1,
        2**63,
        2**64,
        1e308,
        True,
        None,
        [],
        {},
        [{}],
        {"a": {"b": []}},
        "\ud800",
        "NaN",
    ]
    for table, body in (("sources", SOURCE), ("destinations", DESTINATION), ("pipelines", PIPELINE)):
        fields = api.get(f"/api/v1/{table}/1").json()
        for field in {*fields, *body, "unknown"}:
            for value in strange:
                answer = patch(api, f"/api/v1/{table}/1", {field: value})
                assert answer.status_code in (200, 409, 422), (table, field, value, answer.text)
        for field in {"limit", "cursor", "name", "status", "source_id"}:
            for value in ("", "\0", "x" * 5000, "-1", str(2**64), "é"):
                answer = api.get(f"/api/v1/{table}", params={field: value})
                assert answer.status_code in (200, 422), (table, field, value, answer.text)


def test_a_body_that_is_no_json_is_one_clear_error(api: Api) -> None:
    answer = api.post("/api/v1/sources", content=b'{"name": ', headers={"Content-Type": "application/json"})
    status, name, message, _ = error(answer)
    assert (status, name) == (422, "ValidationError")
    assert "JSON decode error" in message


def test_a_wrong_value_is_not_repeated_in_the_answer(api: Api) -> None:
    answer = api.post("/api/v1/sources", json=SOURCE | {"pg_password": {"geheim": 1}, "pg_port": "geheim"})
    assert answer.status_code == 422
    assert "geheim" not in answer.text + api.log


def test_what_breaks_is_told_in_the_form_and_logged(api: Api) -> None:
    api.filled()
    api.database.execute("alter table app.sources rename column pg_host to pg_host_")
    try:
        status, name, message, _ = error(api.get("/api/v1/sources/1"))
    finally:  # the server and its database are those of every other test
        api.database.execute("alter table app.sources rename column pg_host_ to pg_host")
    assert (status, name, message) == (
        500,
        "InternalServerError",
        "Something went wrong; the log of the API says what",
    )
    assert '"event":"request_failed"' in api.log


def test_three_kinds_have_the_same_six_routes() -> None:
    for router in (sources, destinations, pipelines):
        methods = sorted(method for route in router.routes for method in route.methods)  # type: ignore[attr-defined]
        assert [methods.count(method) for method in ("GET", "PATCH", "PUT", "DELETE")] == [2, 1, 1, 1]
