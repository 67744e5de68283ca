"""Shapes that follow each other in Snowflake, on a real connector; also when a crash falls between any two statements."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake import ddl
from workers.snowflake.identifiers import objects_of
from workers.snowflake.inventory import Inventory

TEXT, INT, LONG = (ValueType(kind) for kind in (ValueKind.TEXT, ValueKind.INT32, ValueKind.INT64))
NAME = TableName("public", "things")
ID = Column("id", INT, key=True, attnum=1)


def shape(*columns: Column, oid: int = 7) -> Table:
    return Table(NAME, oid, (ID, *columns))


FIRST = shape(Column("a", TEXT, attnum=2), Column("b", TEXT, attnum=3))


class Cut(Exception):  # noqa: N818 - not an error
    """The process died here."""


def die() -> None:
    raise Cut


CHANGING = ("ALTER", "UPDATE", "COMMENT")


class Crossed:
    """A connection whose cursor lets something happen before the n-th statement of these kinds; `left` is negative then."""

    def __init__(
        self,
        connection: Any,
        statements: int,
        happen: Callable[[], Any],
        kinds: tuple[str, ...] = (*CHANGING, "CREATE"),
    ) -> None:
        self._connection, self.left, self._happen, self._kinds = connection, statements, happen, kinds

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        cursor = self._connection.cursor()
        original = cursor.execute

        def execute(sql: str, *rest: Any) -> Any:
            if sql.split()[0] in self._kinds:
                self.left -= 1
                if self.left == -1:
                    self._happen()
            return original(sql, *rest)

        cursor.execute = execute
        yield cursor


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def at(destination: Destination, table: Table, place: int, generation: int = 100) -> OpenTable:
    """The table has this shape from `place` on."""
    since = Position(generation, place, 0, 0).token
    return OpenTable(1, 1, "pipe", "sys/slot", 1, generation, "channel", destination, table, since)


def put(session: Any, destination: Destination, *rows: str, columns: str = "ID, A, B") -> None:
    with session.cursor() as cursor:
        for name in ("target_sql", "landing_sql"):
            table = getattr(objects_of(destination, FIRST), name)
            cursor.execute(f"INSERT INTO {table} ({columns}) VALUES {', '.join(rows)}")


def rows(session: Any, destination: Destination, columns: str) -> list[tuple[Any, ...]]:
    found = []
    with session.cursor() as cursor:
        for name in ("target_sql", "landing_sql"):
            table = getattr(objects_of(destination, FIRST), name)
            found.append(cursor.execute(f"SELECT {columns} FROM {table} ORDER BY ID").fetchall())
    assert found[0] == found[1]
    return list(found[0])


def columns_of(session: Any, destination: Destination) -> list[str]:
    with session.cursor() as cursor:
        cursor.execute(f"DESCRIBE TABLE {objects_of(destination, FIRST).target_sql}")
        return [row[0] for row in cursor.fetchall() if not row[0].startswith("_ETL_")]


def test_a_rename_keeps_the_column_and_its_values(session: Any, destination: Destination) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    put(session, destination, "(1, 'x', 'y')")
    ddl.ensure(session, at(destination, shape(Column("c", TEXT, attnum=2), FIRST.columns[2]), 2))
    assert columns_of(session, destination) == ["ID", "C", "B"]
    assert rows(session, destination, "C, B") == [("x", "y")]


def test_rows_that_name_a_column_name_it_by_its_new_name(session: Any, destination: Destination) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    landing = objects_of(destination, FIRST).landing_sql
    with session.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {landing} (ID, _ETL_UNCHANGED, _ETL_SPECIAL, _ETL_OLD_KEY)"
            """ VALUES (1, '["a","b"]', '{"a":"NaN","ab":"a"}', '{"a":"a"}')"""
        )
        ddl.ensure(session, at(destination, shape(Column("c", TEXT, attnum=2), FIRST.columns[2]), 2))
        found = cursor.execute(f"SELECT _ETL_UNCHANGED, _ETL_SPECIAL, _ETL_OLD_KEY FROM {landing}").fetchall()
    assert found == [('["c","b"]', '{"c":"NaN","ab":"a"}', '{"c":"a"}')]


def test_a_dropped_column_is_kept_aside_and_a_new_one_of_its_name_is_empty(
    session: Any, destination: Destination
) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    put(session, destination, "(1, 'x', 'y')")
    ddl.ensure(session, at(destination, shape(FIRST.columns[1]), 2))
    assert columns_of(session, destination) == ["ID", "A", "B__DROPPED_3"]
    ddl.ensure(session, at(destination, shape(FIRST.columns[1], Column("b", TEXT, attnum=4)), 3))
    assert rows(session, destination, "A, B, B__DROPPED_3") == [("x", None, "y")]
    ddl.ensure(session, at(destination, shape(FIRST.columns[1]), 4))
    assert columns_of(session, destination) == ["ID", "A", "B__DROPPED_3", "B__DROPPED_4"]


def test_a_key_column_that_is_dropped_does_not_keep_new_rows_out(session: Any, destination: Destination) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    ddl.ensure(session, at(destination, Table(NAME, 7, (replace(FIRST.columns[1], key=True),)), 2))
    with session.cursor() as cursor:
        cursor.execute(f"INSERT INTO {objects_of(destination, FIRST).target_sql} (A) VALUES ('x')")
    assert columns_of(session, destination) == ["ID__DROPPED_1", "A", "B__DROPPED_3"]


def test_a_type_is_widened_or_the_old_column_is_kept_aside(session: Any, destination: Destination) -> None:
    ddl.ensure(session, at(destination, shape(Column("n", INT, attnum=2), Column("t", INT, attnum=3)), 1))
    put(session, destination, "(1, 5, 6)", columns="ID, N, T")
    ddl.ensure(session, at(destination, shape(Column("n", LONG, attnum=2), Column("t", TEXT, attnum=3)), 2))
    assert rows(session, destination, "N, T, T__WAS_3") == [(5, None, 6)]
    ddl.ensure(session, at(destination, shape(Column("n", LONG, attnum=2), Column("t", TEXT, attnum=3)), 3))
    assert columns_of(session, destination) == ["ID", "N", "T__WAS_3", "T"]


def test_an_earlier_shape_changes_nothing_and_gives_the_one_that_is_there(
    session: Any, destination: Destination
) -> None:
    later = shape(Column("c", TEXT, attnum=2))
    ddl.ensure(session, at(destination, FIRST, 1))
    ddl.ensure(session, at(destination, later, 5))
    found = ddl.ensure(session, at(destination, replace(FIRST, version=8), 3))
    assert found.table == replace(later, version=8)
    assert columns_of(session, destination) == ["ID", "C", "B__DROPPED_3"]


def test_a_table_made_anew_under_its_name_keeps_columns_by_name(session: Any, destination: Destination) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    put(session, destination, "(1, 'x', 'y')")
    anew = Table(NAME, 8, (ID, Column("b", TEXT, attnum=2), Column("c", TEXT, attnum=3)))
    ddl.ensure(session, at(destination, anew, 1, generation=101))
    assert columns_of(session, destination) == ["ID", "A__DROPPED_2", "B", "C"]
    renamed = Table(NAME, 8, (ID, Column("d", TEXT, attnum=2), Column("c", TEXT, attnum=3)))
    ddl.ensure(session, at(destination, renamed, 2, generation=101))
    assert columns_of(session, destination) == ["ID", "A__DROPPED_2", "D", "C"]


SWAPPED = shape(Column("b", TEXT, attnum=2), Column("a", TEXT, attnum=3), Column("n", INT, attnum=4, default="5"))


@pytest.mark.parametrize("statements", range(0, 29, 3))
def test_names_change_places_whatever_statement_a_crash_falls_on(
    session: Any, destination: Destination, statements: int
) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    put(session, destination, "(1, 'x', 'y')")
    dying = Crossed(session, statements, die, CHANGING)
    with contextlib.suppress(Cut):
        ddl.ensure(dying, at(destination, SWAPPED, 2))
    assert dying.left < 0
    ddl.ensure(session, at(destination, SWAPPED, 2))
    assert columns_of(session, destination) == ["ID", "B", "A", "N"]
    assert rows(session, destination, "B, A, N") == [("x", "y", 5)]


OLDER = shape(Column("b", TEXT, attnum=3), Column("c", TEXT, attnum=4))
LATER = shape(Column("a", TEXT, attnum=2), Column("b", TEXT, attnum=3), Column("d", INT, attnum=5, default="5"))


@pytest.mark.parametrize("statements", range(0, 17, 2))
def test_an_open_that_crosses_a_later_one_leaves_nothing_that_the_next_does_not_mend(
    session: Any, destination: Destination, statements: int
) -> None:
    ddl.ensure(session, at(destination, FIRST, 1))
    put(session, destination, "(1, 'x', 'y')")
    crossed = Crossed(session, statements, lambda: ddl.ensure(session, at(destination, LATER, 5)))
    with contextlib.suppress(EtlError):
        ddl.ensure(crossed, at(destination, OLDER, 3))
    assert crossed.left < 0
    found = ddl.ensure(session, at(destination, OLDER, 3))
    assert found.table == replace(LATER, version=OLDER.version)
    ours = {"ID", "A", "B", "D"}
    assert ours <= set(columns_of(session, destination))
    assert rows(session, destination, "A, B, D") == [("x", "y", 5)]
    with session.cursor() as cursor:
        objects = objects_of(destination, FIRST)
        assert cursor.execute(f'SELECT A, B, D FROM {objects.target_sql[:-1]}_LIVE"').fetchall() == [("x", "y", 5)]


def test_one_actor_opens_a_table_for_one_caller_at_a_time(destination: Destination) -> None:
    inventory, inside, most = Inventory(), 0, 0

    def happen() -> None:
        nonlocal inside, most
        inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.05)
        inside -= 1

    def open_at(place: int, table: Table) -> None:
        with sql_session(destination) as connection:
            ddl.ensure(Crossed(connection, 0, happen), at(destination, table, place), inventory)

    open_at(1, FIRST)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(open_at, (2, 3, 4), (OLDER, LATER, FIRST)))
    assert most == 1
