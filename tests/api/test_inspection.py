"""A look into a source, and what may be changed there: the source is a database of the same server."""

import uuid
from typing import Any

import pytest

from tests.api.test_resources import error
from tests.support import least
from tests.support.fix_api import Api
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database

SHOP = """
create schema sales;
create table public.orders (id bigint primary key, note text, total numeric(10, 2) generated always as (1.5) stored);
create table sales."Order Lines" (a int not null);
create publication p for table public.orders
"""
TABLES = ("public.orders", 'sales."Order Lines"')


@pytest.fixture
def source(api: Api, database: Database) -> str:
    """The path of a source that works."""
    database.execute(SHOP)
    least.may_publish(database, TABLES, ("p",))
    body = {
        "name": "shop",
        **least.source(database),
        "replication_id": uuid.uuid4().int % 1_000_000_000,
    }
    made = api.post("/api/v1/sources", json=body)
    assert made.status_code == 201, made.text
    return "/api/v1/sources/1"


def over(api: Api, answer: Any) -> dict[str, Any]:
    """An operation when it is no longer running."""
    assert answer.status_code == 202, answer.text
    path = f"/api/v1/operations/{answer.json()['id']}"

    def done() -> Any:
        found = api.get(path).json()
        return found if found["status"] != "running" else None

    found: dict[str, Any] = wait_for("the operation", done)
    return found


def test_a_source_that_works_is_found_so(api: Api, source: str) -> None:
    found = api.post(f"{source}/test").json()
    assert (found["ok"], found["findings"]) == (True, [])
    assert found["server_version"].startswith("18.")


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"pg_password": "wrong"}, "source_auth", "refused user reader_test_"),
        ({"pg_port": 1}, "source_unreachable", "127.0.0.1:1 does not answer"),
        ({"publication_name": "q"}, "source_setup", "publication q does not exist in database "),
    ],
)
def test_what_is_wrong_with_a_source_is_told_with_its_remedy(
    api: Api, source: str, change: dict[str, Any], kind: str, reason: str
) -> None:
    api.patch(source, json=change)
    found = api.post(f"{source}/test").json()
    (finding,) = found["findings"]
    assert (found["ok"], finding["kind"], finding["place"]) == (False, kind, "source shop")
    assert reason in finding["reason"]
    assert finding["remedy"]


def test_schemas_tables_columns_and_publications_are_listed(api: Api, source: str) -> None:
    assert [item["name"] for item in api.get(f"{source}/schemas").json()] == ["public", "sales"]
    tables = api.get(f"{source}/tables").json()
    assert [(item["schema"], item["name"], item["has_primary_key"], item["publications"]) for item in tables] == [
        ("public", "orders", True, ["p"]),
        ("sales", "Order Lines", False, []),
    ]
    assert [item["name"] for item in api.get(f"{source}/tables", params={"schema": "sales"}).json()] == ["Order Lines"]
    columns = api.get(f"{source}/tables/public/orders/columns").json()
    assert [tuple(item.values()) for item in columns] == [
        ("id", "bigint", False, True, False),
        ("note", "text", True, False, False),
        ("total", "numeric(10,2)", True, False, True),
    ]
    assert len(api.get(f"{source}/tables/sales/Order Lines/columns").json()) == 1
    assert error(api.get(f"{source}/tables/public/nothing/columns"))[:3] == (
        404,
        "EntityNotFoundError",
        "Table with id 'public.nothing' not found",
    )
    (publication,) = api.get(f"{source}/publications").json()
    assert (publication["name"], publication["tables"], publication["publishes"]) == (
        "p",
        ["public.orders"],
        "insert, update, delete, truncate",
    )


def test_publications_are_made_and_changed(api: Api, source: str) -> None:
    lines = {"schema": "sales", "name": "Order Lines"}
    made = api.post(f"{source}/publications", json={"name": "second; drop table x", "tables": [lines]})
    assert made.status_code == 201, made.text
    change = {"add": [{"name": "orders"}], "drop": [lines]}
    assert api.patch(f"{source}/publications/second; drop table x", json=change).status_code == 200
    assert api.post(f"{source}/tables", json=lines).json() == {"name": "p"}
    found = {item["name"]: item["tables"] for item in api.get(f"{source}/publications").json()}
    assert found == {"second; drop table x": ["public.orders"], "p": ["public.orders", "sales.Order Lines"]}
    assert error(api.post(f"{source}/tables", json=lines)) == (
        409,
        "ConflictError",
        'source shop: relation "Order Lines" is already member of publication "p"',
        {"source": "shop"},
    )
    assert (
        error(api.post(f"{source}/publications", json={"name": "x"}))[2]
        == "body: give tables or schemas, or all_tables"
    )
    actions = [item["action"] for item in api.get("/api/v1/audit-log").json()["items"]]
    assert actions == ["register table", "change publication", "create publication", "create"]


def test_slots_are_made_listed_and_dropped(api: Api, source: str) -> None:
    own = f"etl_stream_{api.get(source).json()['replication_id']}"
    done = over(api, api.post(f"{source}/slots", json={}))
    assert (done["status"], done["result"]["name"]) == ("succeeded", own)
    (slot,) = api.get(f"{source}/slots").json()
    assert (slot["name"], slot["ours"], slot["active"], slot["plugin"]) == (own, True, False, "pgoutput")
    assert slot["retained_bytes"] >= 0
    again = over(api, api.post(f"{source}/slots", json={}))
    assert (again["status"], again["error"]["error"], again["error"]["message"]) == (
        "failed",
        "SourceSetupError",
        f'source shop: replication slot "{own}" already exists',
    )
    assert api.delete(f"{source}/slots/{own}").status_code == 204
    assert api.get(f"{source}/slots").json() == []
    assert error(api.delete(f"{source}/slots/{own}"))[:2] == (404, "EntityNotFoundError")


def test_the_slot_of_a_started_pipeline_is_not_dropped(api: Api, source: str) -> None:
    own = f"etl_stream_{api.get(source).json()['replication_id']}"
    over(api, api.post(f"{source}/slots", json={}))
    api.database.execute(
        "insert into app.destinations (name, snowflake_account, snowflake_user, snowflake_database, snowflake_schema,"
        " snowflake_private_key_path) values ('d', 'a', 'u', 'd', 's', 'k');"
        "insert into app.pipelines (name, source_id, destination_id, status) values ('p', 1, 1, 'START')"
    )
    assert error(api.delete(f"{source}/slots/{own}")) == (
        409,
        "ConflictError",
        f"Slot {own} is needed by started pipelines; pause them first",
        {"slot": own},
    )
    api.post("/api/v1/pipelines/1/pause")
    assert api.delete(f"{source}/slots/{own}").status_code == 204


def test_a_source_that_does_not_answer_is_a_bad_gateway(api: Api, source: str) -> None:
    port = api.get(source).json()["pg_port"]
    api.patch(source, json={"pg_port": 1})
    assert error(api.get(f"{source}/tables")) == (
        502,
        "SourceUnreachableError",
        "source shop: 127.0.0.1:1 does not answer",
        {"kind": "source_unreachable", "place": "source shop", "remedy": "check pg_host, pg_port and the network"},
    )
    assert port != 1
