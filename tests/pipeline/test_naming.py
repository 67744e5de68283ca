"""What tables are called in Snowflake: cases and schemas, on every load path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etl_supervisor.model.naming import IdentifierCase, Naming, SchemaMapping
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TABLES = """
    create schema "Sales";
    create table "Orders" ("orderId" int primary key, "placedAt" timestamptz, "payLoad" jsonb, "bigText" text, plain int);
    create table "Sales"."Orders" ("orderId" int, region text, "bigText" text, primary key ("orderId", region));
    insert into "Orders" select g, now(), '{"A": 1}', repeat('x', 3000), g from generate_series(1, 300) g;
    insert into "Sales"."Orders" select g, 'Nord', 'y' || g from generate_series(1, 300) g;
    alter table "Orders" alter column "bigText" set storage external;
    create publication p for all tables;
"""
KEYS = {"Orders": ("orderId",), "Sales.Orders": ("orderId", "region")}


def change(deploy: Deployment, start: int) -> None:
    deploy.source.execute(
        f"""
        insert into "Orders" select g, now(), '[2]', repeat(md5(g::text), 100), g from generate_series({start}, {start} + 99) g;
        update "Orders" set plain = plain + 1 where "orderId" % 3 = 0;
        delete from "Orders" where "orderId" % 7 = 0;
        insert into "Sales"."Orders" select g, 'Süd', 'z' from generate_series({start}, {start} + 99) g;
        update "Sales"."Orders" set "orderId" = "orderId" + 100000 where "orderId" % 13 = 0 and "orderId" < 100000;
        """
    )


def named(deploy: Deployment, case: str, mapping: str) -> None:
    """Another naming of the destination, before the pipeline is added."""
    naming = Naming(IdentifierCase(case), SchemaMapping(mapping))
    deploy.destination, deploy.allowed = (
        replace(there, naming=naming) for there in (deploy.destination, deploy.allowed)
    )
    least.administer(deploy.destination, deploy.allowed.user, *least.FOR_SCHEMAS)


def tables(deploy: Deployment) -> set[tuple[str, str]]:
    """(schema, name) of everything that is not the system's own."""
    text = f'SELECT TABLE_SCHEMA, TABLE_NAME FROM "{deploy.destination.database}".INFORMATION_SCHEMA.TABLES'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        found = cursor.execute(text).fetchall()
        return {(schema, name) for schema, name in found if not name.startswith("_ETL_") and schema != "_streaming"}


def columns(deploy: Deployment, table: str) -> list[str]:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        found = cursor.execute(f'DESCRIBE TABLE "{deploy.destination.database}".{table}').fetchall()
        return [row[0] for row in found if not row[0].startswith("_ETL_")]


@pytest.mark.parametrize("path", ["streaming", "snowpipe", "copy"])
def test_names_keep_their_case_and_schemas_on_every_load_path(deploy: Deployment, path: str) -> None:
    deploy.source.execute(TABLES)
    named(deploy, "keep", "schema")
    deploy.add("shop", load_path=path, copy_load_path=path, file_max_age_seconds=0.3, apply_history=True)
    deploy.start()
    wait_for("both tables to be ready", lambda: ready(deploy) == {"public.Orders", "Sales.Orders"})
    change(deploy, 1001)
    deploy.source.execute("""alter table "Orders" add column "lateComer" text default 'Ä'""")
    change(deploy, 2001)
    deploy.source.execute('alter table "Orders" rename column plain to "Plain"')
    deploy.source.execute('insert into "Orders" values (5000, now(), null, null, 1, null)')
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0
    assert {item for item in tables(deploy) if not item[1].endswith(("_HISTORY", "_LIVE"))} == {
        ("PUBLIC", "Orders"),
        ("Sales", "Orders"),
        ("ETL_SCHEMA", "LANDING_Orders"),
        ("ETL_SCHEMA", "LANDING_Sales__Orders"),
    }
    assert columns(deploy, '"Sales"."Orders"') == ["orderId", "region", "bigText"]
    assert columns(deploy, 'ETL_SCHEMA."LANDING_Orders"') == [
        "orderId",
        "placedAt",
        "payLoad",
        "bigText",
        "Plain",
        "lateComer",
    ]
    assert "table_stopped" not in deploy.log


def test_one_schema_for_each_schema_in_upper_case(deploy: Deployment) -> None:
    deploy.source.execute(TABLES)
    named(deploy, "upper", "schema")
    deploy.add("shop")
    deploy.start()
    wait_for("both tables to be ready", lambda: ready(deploy) == {"public.Orders", "Sales.Orders"})
    change(deploy, 1001)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert {("PUBLIC", "ORDERS"), ("SALES", "ORDERS"), ("ETL_SCHEMA", "LANDING_SALES__ORDERS")} <= tables(deploy)
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        live = f"SELECT COUNT(*) FROM {deploy.destination.database}.SALES.ORDERS_LIVE"
        assert cursor.execute(live).fetchone() == (400,)
    assert deploy.stop() == 0


def test_schemas_that_meet_and_a_case_that_changes_are_refused_with_a_clear_line(deploy: Deployment) -> None:
    deploy.source.execute(TABLES + "create schema etl_schema; create table etl_schema.t (id int primary key);")
    named(deploy, "keep", "schema")
    deploy.add("shop")
    deploy.start()
    wait_for("the landing schema to be refused", lambda: "etl_schema.t" in stopped(deploy))
    assert stopped(deploy) == {
        "etl_schema.t": "schema etl_schema would be etl_schema in Snowflake, which is the landing schema"
    }
    # only tables that have begun are held to a case
    wait_for("the others to be ready", lambda: ready(deploy) == {"public.Orders", "Sales.Orders"})
    deploy.source.execute("drop table etl_schema.t")
    change(deploy, 1001)
    deploy.stop()
    named(deploy, "upper", "schema")
    deploy.add("shop")
    deploy.start()
    wait_for("the case to be refused", lambda: {"public.Orders", "Sales.Orders"} <= stopped(deploy).keys())
    assert stopped(deploy)["Sales.Orders"] == "its rows are in LANDING_Sales__Orders, whose names have another case"
    deploy.stop()


def ready(deploy: Deployment) -> set[str]:
    return {line["table"] for line in deploy.events("table_ready")}


def stopped(deploy: Deployment) -> dict[str, str]:
    """Table -> why it was stopped."""
    return {line["table"]: line["reason"] for line in deploy.events("table_stopped")}
