"""Names with their own case, and schemas of their own. DuckDB does not tell cases apart, so what is sent is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy, Deletes
from etl_supervisor.model.naming import IdentifierCase, Naming, SchemaMapping
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Column, Table, TableName
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import INT, TEXT, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import named, objects_of

KEPT, SCHEMAS = Naming(IdentifierCase.KEEP), Naming(mapping=SchemaMapping.SCHEMA)
COLUMNS = (Column("orderId", INT, key=True, attnum=1), Column("bigText", TEXT, toastable=True, attnum=2))
LINES = Table(TableName("Sales", "orderLines"), 7, COLUMNS)
ROWS = [("I", 90, 1, "'x'", "NULL"), ("I", 91, 2, "'y'", "NULL"), ("U", 95, 1, "NULL", """'["bigText"]'""")]


class Recorder:
    """A connection that keeps what it was told."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.statements: list[str] = []

    def cursor(self) -> Any:
        cursor = self.connection.cursor()
        execute = cursor.execute

        def kept(statement: str, *args: Any) -> Any:
            self.statements.append(statement)
            return execute(statement, *args)

        cursor.execute = kept
        return cursor


@pytest.fixture
def session(destination: Destination) -> Iterator[Recorder]:
    with sql_session(destination) as connection:
        yield Recorder(connection)


def land(session: Recorder, it: OpenTable) -> None:
    objects = objects_of(it.destination, it.table)
    key, text = (column.landed for column in it.table.columns[:2])
    names = f'_ETL_OP, _ETL_GENERATION, _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX, "{key}", "{text}", _ETL_UNCHANGED'
    values = ", ".join(f"('{op}', 100, {at}, {at}, 0, {k}, {v}, {left_out})" for op, at, k, v, left_out in ROWS)
    session.cursor().execute(f"INSERT INTO {objects.landing_sql} ({names}) VALUES {values}")


@pytest.mark.parametrize(
    "policy",
    [
        ApplyPolicy(history=True, cluster_by=("orderId",)),
        ApplyPolicy(delete=Deletes.SOFT),
        ApplyPolicy(mode=ApplyMode.TASK),
        ApplyPolicy(mode=ApplyMode.DYNAMIC_TABLE),
    ],
    ids=["history", "soft", "task", "dynamic_table"],
)
@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.usefixtures("may_make_tasks", "may_make_dynamic_tables")
def test_no_statement_has_a_name_in_another_case(
    session: Recorder, destination: Destination, policy: ApplyPolicy, keyed: bool
) -> None:
    there = replace(destination, naming=KEPT)
    columns = tuple(replace(column, key=column.key and keyed) for column in COLUMNS)
    it = named(opening(there, table=replace(LINES, columns=columns), policy=policy))
    mark = ddl.ensure(session, it).watermark
    if keyed:
        land(session, it)
    mark = apply(session, it, mark, 200)
    more = (*columns, Column("lateComer", TEXT, default="d", attnum=3))
    renamed = tuple(replace(c, name="largeText") if c.attnum == 2 else c for c in more)
    ddl.ensure(session, named(opening(there, table=replace(LINES, columns=renamed, version=300), policy=policy)))
    said = "\n".join(session.statements)
    for name in ("orderId", "bigText", "lateComer", "largeText", "Sales__orderLines"):
        assert name in said
        assert name.upper() not in said
        assert name.lower() not in said
    if keyed and policy.mode is ApplyMode.MERGE:
        found = session.cursor().execute(f"SELECT * FROM {objects_of(there, LINES).target_sql} ORDER BY 1").fetchall()
        assert [row[:2] for row in found] == [(1, "x"), (2, "y")]


@pytest.mark.usefixtures("may_make_schemas")
def test_another_mapping_makes_the_target_again_in_its_schema(session: Recorder, destination: Destination) -> None:
    it = named(opening(destination, table=LINES))
    mark = ddl.ensure(session, it).watermark
    land(session, it)
    apply(session, it, mark, 200)
    moved = replace(it, destination=replace(destination, naming=SCHEMAS))
    mark = ddl.ensure(session, moved).watermark
    assert mark.applied == 0
    apply(session, moved, mark, 200)
    for name in ("ORDERLINES", "ORDERLINES_LIVE"):
        found = session.cursor().execute(
            f'SELECT ORDERID, BIGTEXT FROM "{destination.database}".SALES.{name} ORDER BY 1'
        )
        assert found.fetchall() == [(1, "x"), (2, "y")]


def test_another_case_is_refused_where_rows_are(session: Recorder, destination: Destination) -> None:
    tables = [LINES, replace(LINES, name=TableName("public", "UPPER"))]
    for table, landing in zip(tables, ("LANDING_SALES__ORDERLINES", "LANDING_UPPER"), strict=True):
        ddl.ensure(session, named(opening(destination, table=table)))
        with pytest.raises(EtlError) as caught:
            ddl.ensure(session, named(opening(replace(destination, naming=KEPT), table=table)))
        assert caught.value.kind is Kind.DESTINATION_SETUP
        assert caught.value.reason == f"its rows are in {landing}, whose names have another case"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("Etl_Schema", "schema Etl_Schema would be ETL_SCHEMA in Snowflake, which is the landing schema"),
        ("PUBLIC", "schema PUBLIC would be PUBLIC in Snowflake, which is the destination's schema"),
    ],
)
def test_a_schema_that_would_be_one_of_the_destination_is_refused(
    session: Recorder, destination: Destination, schema: str, reason: str
) -> None:
    there = replace(destination, naming=SCHEMAS)
    with pytest.raises(EtlError) as caught:
        ddl.ensure(session, named(opening(there, table=replace(LINES, name=TableName(schema, "t")))))
    assert (caught.value.kind, caught.value.reason) == (Kind.DESTINATION_SETUP, reason)


def test_columns_that_differ_by_case_only_are_refused_in_any_case(session: Recorder, destination: Destination) -> None:
    twice = replace(LINES, columns=(*COLUMNS, Column("ORDERID", INT, attnum=3)))
    for naming in (Naming(), KEPT):
        with pytest.raises(EtlError) as caught:
            ddl.ensure(session, named(opening(replace(destination, naming=naming), table=twice)))
        assert caught.value.reason == "columns orderId and ORDERID are both ORDERID in Snowflake"


@pytest.mark.parametrize("wanted", [True, False])
def test_comments_of_the_source_are_copied_on_request_and_marks_stay(
    session: Recorder, destination: Destination, wanted: bool
) -> None:
    there = replace(destination, copy_comments=wanted)
    said = ("the buyer's order\netl: 9.9 not a mark", "etl: 7.1 orderId")
    columns = tuple(replace(column, comment=text) for column, text in zip(COLUMNS, said, strict=True))
    table = replace(LINES, columns=columns, comment="what was ordered")
    ddl.ensure(session, named(opening(there, table=table)))
    first = described(session, there)
    assert first["ORDERID"] == ("the buyer's order\n etl: 9.9 not a mark\n" if wanted else "") + "etl: 7.1 orderId"
    assert first["BIGTEXT"] == ("7.1 orderId\n" if wanted else "") + "etl: 7.2 bigText"
    tables = (
        f"SELECT COMMENT FROM \"{there.database}\".INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 'SALES__ORDERLINES'"
    )
    ((about,),) = session.cursor().execute(tables).fetchall()
    ours = "Current rows of Sales.orderLines by ETL Stream, pipeline pipe"
    assert about == ("what was ordered\n" if wanted else "") + ours
    more = (replace(columns[0], comment="another word"), replace(columns[1], name="largeText"))
    ddl.ensure(session, named(opening(there, table=replace(table, columns=more, version=300))))
    second = described(session, there)
    assert second["ORDERID"] == ("another word\n" if wanted else "") + "etl: 7.1 orderId"
    assert second["LARGETEXT"] == ("7.1 orderId\n" if wanted else "") + "etl: 7.2 largeText", "renamed by its mark"


def described(session: Recorder, there: Destination) -> dict[str, str]:
    """Column of the target -> its comment."""
    cursor = session.cursor()
    cursor.execute(f"DESCRIBE TABLE {objects_of(there, LINES).target_sql}")
    titles = [item[0].lower() for item in cursor.description]
    name, comment = titles.index("name"), titles.index("comment")
    return {row[name]: row[comment] for row in cursor.fetchall() if not row[name].startswith("_ETL_")}
