"""Publications as PostgreSQL 15 and newer have them: filters, columns, schemas, kinds; and those that are not dropped."""

import uuid
from typing import Any

import pytest

from tests.api.test_inspection import SHOP, TABLES
from tests.api.test_resources import error
from tests.support import least
from tests.support.fix_api import Api
from tests.support.fix_postgres import Database

PUBLICATIONS = "/api/v1/sources/1/publications"
LINES = {"schema": "sales", "name": "Order Lines"}


def made(api: Api, database: Database, **changes: Any) -> None:
    """A source, whose id is 1 when it is the first."""
    body = {"name": "shop", **least.source(database), "replication_id": uuid.uuid4().int % 1_000_000_000} | changes
    answer = api.post("/api/v1/sources", json=body)
    assert answer.status_code == 201, answer.text


@pytest.fixture
def source(api: Api, database: Database) -> None:
    database.execute(SHOP)
    least.may_publish(database, TABLES, ("p",))
    made(api, database)


def as_superuser(api: Api, database: Database) -> None:
    """From now on: nobody else makes publications of schemas."""
    assert api.patch("/api/v1/sources/1", json=database.superuser).status_code == 200


def listed(api: Api, name: str) -> dict[str, Any]:
    (found,) = [item for item in api.get(PUBLICATIONS).json() if item["name"] == name]
    return dict(found)


@pytest.mark.usefixtures("source")
def test_filters_columns_schemas_and_kinds_are_made_and_listed(api: Api, database: Database) -> None:
    orders = {"name": "orders", "where": "id > 10 and note <> 'it''s 5%'", "columns": ["id", "note"]}
    body = {"name": "new", "tables": [orders], "publishes": ["insert", "delete"], "via_root": True}
    answer = api.post(PUBLICATIONS, json=body)
    assert (answer.status_code, answer.json()) == (201, {"name": "new"})
    assert listed(api, "new") == {
        "name": "new",
        "all_tables": False,
        "via_root": True,
        "publishes": "insert, delete",
        "tables": ["public.orders"],
        "schemas": [],
        "filters": {"orders": "((id > 10) AND (note <> 'it''s 5%'::text))"},
        "columns": {"orders": ["id", "note"]},
    }
    as_superuser(api, database)
    assert api.post(PUBLICATIONS, json={"name": "whole", "schemas": ["sales"]}).status_code == 201
    whole = listed(api, "whole")
    assert (whole["schemas"], whole["tables"], whole["publishes"]) == (
        ["sales"],
        ["sales.Order Lines"],
        "insert, update, delete, truncate",
    )
    entry = api.get("/api/v1/audit-log").json()["items"][2]
    assert (entry["action"], entry["after"]["publishes"]) == ("create publication", ["insert", "delete"])


def test_who_may_only_read_is_told_what_publications_need(api: Api, database: Database) -> None:
    database.execute(SHOP)
    made(api, database)
    role = least.source_role(database)["pg_username"]
    for answer, reason in (
        (
            api.post(PUBLICATIONS, json={"name": "new", "tables": [LINES]}),
            f"permission denied for database {database.name}",
        ),
        (api.patch(f"{PUBLICATIONS}/p", json={"add": [LINES]}), "must be owner of publication p"),
    ):
        status, kind, message, details = error(answer)
        assert (status, kind, message) == (502, "SourceSetupError", f"source shop: {reason}")
        assert details["remedy"] == f"give user {role} what scripts/sql/postgres_role.sql lists for it"
    assert listed(api, "p")["tables"] == ["public.orders"]


@pytest.mark.usefixtures("source")
def test_a_publication_is_changed_in_one_step(api: Api, database: Database) -> None:
    as_superuser(api, database)
    change = {
        "drop": [{"name": "orders"}],
        "add": [{"name": "orders", "where": "id > 0"}],
        "add_schemas": ["sales"],
        "publishes": ["insert", "update"],
        "via_root": True,
    }
    assert api.patch(f"{PUBLICATIONS}/p", json=change).status_code == 200
    found = listed(api, "p")
    assert (found["filters"], found["schemas"], found["publishes"], found["via_root"]) == (
        {"orders": "(id > 0)"},
        ["sales"],
        "insert, update",
        True,
    )
    assert api.patch(f"{PUBLICATIONS}/p", json={"drop_schemas": ["sales"], "via_root": False}).status_code == 200
    found = listed(api, "p")
    assert (found["tables"], found["publishes"], found["via_root"]) == (["public.orders"], "insert, update", False)
    broken = {"drop": [{"name": "orders"}], "add": [{"name": "nothing"}]}
    assert error(api.patch(f"{PUBLICATIONS}/p", json=broken)) == (
        422,
        "StatementRefusedError",
        'source shop: relation "public.nothing" does not exist',
        {"source": "shop"},
    )
    assert listed(api, "p") == found, "all of it or nothing"


@pytest.mark.usefixtures("source")
def test_a_filter_is_an_expression_and_no_way_to_another_statement(api: Api, database: Database) -> None:
    for where in (
        "true); DROP TABLE public.orders; --",
        "true); DROP TABLE public.orders; SELECT (1",
        "id = (SELECT 1)",
        "pg_sleep(1) IS NULL",
    ):
        answer = api.patch(f"{PUBLICATIONS}/p", json={"add": [LINES | {"where": where}]})
        assert error(answer)[:2] == (422, "StatementRefusedError"), where
    assert database.execute("select to_regclass('public.orders') is not null") == [(True,)]
    assert listed(api, "p")["tables"] == ["public.orders"]


def test_what_an_old_server_does_not_know_is_told_by_the_field(api: Api, old_database: Database) -> None:
    old_database.execute(SHOP)
    least.may_publish(old_database, TABLES, ("p",))
    made(api, old_database)
    major = int(old_database.execute("show server_version_num")[0][0]) // 10_000
    answer = api.post(PUBLICATIONS, json={"name": "new", "tables": [LINES | {"where": "a > 1"}]})
    if major >= 15:
        assert answer.status_code == 201, answer.text
        assert listed(api, "new")["filters"] == {'sales."Order Lines"': "(a > 1)"}
    else:
        assert error(answer)[2] == f"where: it needs PostgreSQL 15 or newer; the source has {major}"


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"name": "x", "tables": [LINES], "all_tables": True}, "body", "give tables or schemas, or all_tables"),
        ({"name": "x", "all_tables": True, "publishes": []}, "publishes", "List should have at least 1 item"),
        ({"name": "x", "all_tables": True, "publishes": ["merge"]}, "publishes.0", "Input should be 'insert'"),
        ({"name": "x", "tables": [LINES | {"where": ""}]}, "tables.0.where", "String should have at least 1 character"),
    ],
)
@pytest.mark.usefixtures("source")
def test_a_publication_that_can_not_be_is_refused(api: Api, body: dict[str, Any], field: str, reason: str) -> None:
    status, kind, message, details = error(api.post(PUBLICATIONS, json=body))
    assert (status, kind, [item["field"] for item in details["errors"]]) == (422, "ValidationError", [field])
    assert message.startswith(f"{field}: {reason}")


@pytest.mark.usefixtures("source")
def test_a_list_of_publications_that_can_not_be_read_is_told(api: Api) -> None:
    api.database.execute("""update app.sources set publication_name = 'a, "b'""")
    reason = "the source's can't be read: put names with commas or quotes in double quotes"
    assert error(api.post("/api/v1/sources/1/tables", json=LINES)) == (
        422,
        "ValidationError",
        f"publication_name: {reason}",
        {"errors": [{"field": "publication_name", "reason": reason}]},
    )
    assert api.delete(f"{PUBLICATIONS}/p").status_code == 204


@pytest.mark.usefixtures("source")
def test_a_publication_that_is_read_is_not_dropped(api: Api, database: Database) -> None:
    assert error(api.delete(f"{PUBLICATIONS}/p")) == (
        409,
        "ConflictError",
        "Publication p is read by source shop; take it out of publication_name first",
        {"publication": "p"},
    )
    database.execute('create publication "second, one" for table orders')
    least.may_publish(database, (), ('"second, one"',))
    made(api, database, name="other", publication_name='q, "second, one"', tenant="acme")
    assert error(api.delete(f"{PUBLICATIONS}/second, one"))[2].startswith(
        "Publication second, one is read by source other;"
    )
    with api.as_("admin", "default") as admin:
        told = error(admin.delete(f"{PUBLICATIONS}/second, one"))[2]
        assert told.startswith("Publication second, one is read by a source of another tenant;")
        assert error(admin.patch(f"{PUBLICATIONS}/second, one", json={"via_root": True})) == (
            409,
            "ConflictError",
            "Publication second, one is read by a source of another tenant",
            {"publication": "second, one"},
        )
    api.patch("/api/v1/sources/2", json={"publication_name": "q"})
    assert api.delete(f"{PUBLICATIONS}/second, one").status_code == 204
    assert [item["name"] for item in api.get(PUBLICATIONS).json()] == ["p"]
    assert error(api.delete(f"{PUBLICATIONS}/second, one")) == (
        404,
        "EntityNotFoundError",
        "Publication with id 'second, one' not found",
        {"entity_type": "Publication", "entity_id": "second, one"},
    )
    assert api.get("/api/v1/audit-log").json()["items"][0]["action"] == "drop publication"
