"""Tables of which nothing is there are made by one statement; whatever is there is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import TableName
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of
from workers.snowflake.inventory import Inventory
from workers.snowflake.owner import Watermark

LATER, LATEST = (Position(100, number, 0, 0).token for number in (255, 256))
OTHER = replace(TABLE, name=TableName("public", "other"), oid=TABLE.oid + 1)


class Listening:
    """A connection that remembers its statements."""

    def __init__(self, connection: Any) -> None:
        self._connection, self.told = connection, list[str]()

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        cursor = self._connection.cursor()
        original = cursor.execute

        def execute(sql: str, *rest: Any) -> Any:
            self.told.append(sql)
            return original(sql, *rest)

        cursor.execute = execute
        yield cursor


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def columns_of(session: Any, destination: Destination, table: str = "target_sql") -> list[tuple[Any, ...]]:
    with session.cursor() as cursor:
        cursor.execute(f"DESCRIBE TABLE {getattr(objects_of(destination, TABLE), table)}")
        return [(row[0], row[1], row[9]) for row in cursor.fetchall()]


def test_the_second_new_table_of_a_schema_is_opened_by_one_statement(session: Any, destination: Destination) -> None:
    inventory, listening = Inventory(), Listening(session)
    first = ddl.ensure(session, opening(destination), inventory)
    found = ddl.ensure(listening, replace(opening(destination), table=OTHER), inventory)
    assert [text.split()[0] for text in listening.told] == ["EXECUTE"]
    assert found.watermark == Watermark(100, 0, 1)
    assert found.columns == [item for item in first.columns if not item[0].startswith("_ETL_")]
    listening.told.clear()
    again = ddl.ensure(listening, opening(destination), inventory)
    assert (again.watermark, again.table) == (first.watermark, first.table)
    assert not [text for text in listening.told if text.split()[0] not in ("SELECT", "DESCRIBE")]
    assert len(listening.told) == 3  # its two tables, and its row


def test_a_shape_that_the_stream_tells_again_is_noted_and_nothing_is_made_anew(
    session: Any, destination: Destination
) -> None:
    it, listening, inventory = opening(destination), Listening(session), Inventory()
    ddl.ensure(session, replace(it, table=replace(TABLE, version=7)), inventory)
    later = replace(it, table=replace(TABLE, version=-1), since=LATER)
    ddl.ensure(listening, replace(later, since=it.since), inventory)
    assert [text.split()[0] for text in listening.told] == ["DESCRIBE", "SELECT", "DESCRIBE"]
    listening.told.clear()
    found = ddl.ensure(listening, later, inventory)
    assert [text.split()[0] for text in listening.told] == ["DESCRIBE", "SELECT", "DESCRIBE", "UPDATE"]
    assert found.table == later.table
    listening.told.clear()
    ddl.ensure(listening, replace(later, pipeline="renamed"), inventory)
    assert [text for text in listening.told if text.startswith("COMMENT ON TABLE") and "renamed" in text]
    assert ddl.confirm(session, later)
    assert not ddl.confirm(session, it)  # it is of an earlier place
    columns = (*TABLE.columns, replace(TABLE.columns[-1], name="w"))
    wider = replace(later, table=replace(TABLE, columns=columns), since=LATEST)
    assert not ddl.confirm(session, wider)
    assert ddl.ensure(session, wider).table == wider.table
    assert not ddl.confirm(session, later)
    listening.told.clear()
    ddl.ensure(listening, replace(wider, generation=101), inventory)
    assert [text for text in listening.told if text.startswith("CREATE OR REPLACE VIEW")]


def test_a_column_that_a_person_has_dropped_comes_back_with_the_next_word_of_the_shape(
    session: Any, destination: Destination
) -> None:
    it = opening(destination)
    ddl.ensure(session, it)
    with session.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {objects_of(destination, TABLE).target_sql} DROP COLUMN BIG")
    ddl.ensure(session, replace(it, since=LATER))
    assert "BIG" in [name for name, _, _ in columns_of(session, destination)]


def test_a_table_without_rows_is_applied_by_one_statement(session: Any, destination: Destination) -> None:
    it, listening = opening(destination), Listening(session)
    mark = ddl.ensure(session, it).watermark
    found = apply(listening, it, mark, 50, 40)
    assert (found.applied, found.shown, len(listening.told)) == (50, 100, 1)
    insert(session, destination, [("I", 100, 60, 1, 0, None, None, 1, 1, "x", None)])
    assert apply(session, it, mark, 70).applied == 50, "a watermark that has moved is read again"
    assert apply(session, it, found, 70).applied == 70


def test_a_target_that_has_rows_of_somebody_else_is_replaced_by_the_first_apply(
    session: Any, destination: Destination
) -> None:
    it, target = opening(destination), objects_of(destination, TABLE).target_sql
    mark = ddl.ensure(session, it).watermark
    with session.cursor() as cursor:
        cursor.execute(f"INSERT INTO {target} (K) VALUES (1)")
        assert apply(session, it, mark, 50, 40).applied == 50
        assert cursor.execute(f"SELECT COUNT(*) FROM {target}").fetchone() == (0,)


@pytest.mark.parametrize("missing", ["target_sql", "landing_sql"])
def test_what_is_there_without_a_watermark_row_is_taken_over(
    session: Any, destination: Destination, missing: str
) -> None:
    """A block that died halfway, and an inventory that is old."""
    inventory, it, objects = Inventory(), opening(destination), objects_of(destination, TABLE)
    with session.cursor() as cursor:
        inventory.stock(cursor, destination, objects)
        ddl.ensure(session, it)
        shapes = {name: columns_of(session, destination, name) for name in ("target_sql", "landing_sql")}
        cursor.execute(f"DELETE FROM {objects.watermark_sql}")
        cursor.execute(f"DROP VIEW {objects.live_sql}")
        cursor.execute(f"DROP TABLE {getattr(objects, missing)}")
    assert ddl.ensure(session, it, inventory).watermark == Watermark(100, 0, 1)
    assert {name: columns_of(session, destination, name) for name in shapes} == shapes
    with session.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {objects.live_sql}")


@pytest.mark.usefixtures("may_make_schemas")
def test_schemas_that_were_dropped_since_are_made_again(session: Any, destination: Destination) -> None:
    inventory, it, objects = Inventory(), opening(destination), objects_of(destination, TABLE)
    with session.cursor() as cursor:
        inventory.stock(cursor, destination, objects)
        cursor.execute(f'DROP SCHEMA "{objects.database}"."{objects.landing_schema}" CASCADE')
    assert ddl.ensure(session, it, inventory).watermark == Watermark(100, 0, 1)


def test_a_table_that_another_pipeline_has_made_since_is_refused(session: Any, destination: Destination) -> None:
    inventory, it = Inventory(), opening(destination)
    with session.cursor() as cursor:
        inventory.stock(cursor, destination, objects_of(destination, TABLE))
    ddl.ensure(session, replace(it, pipeline_id=2, pipeline="theirs"))
    with pytest.raises(EtlError, match=r"belongs to table .* of pipeline theirs"):
        ddl.ensure(session, it, inventory)
