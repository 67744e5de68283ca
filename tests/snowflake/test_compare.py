"""What the tests' own comparison of a source with a target can see: it is asked of tables that were made different by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from etl_supervisor.cli.compare import Difference, compare_table
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from tests.support.fix_local_snowflake import sql_session
from tests.support.fix_postgres import Database

POSITION = "_ETL_GENERATION, _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX"


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


class Pair:
    """A table `items` in a source, and what stands for its target and change log."""

    def __init__(self, database: Database, session: Any, there: Destination, rows: str) -> None:
        self._database, self._session, self._there = database, session, there
        self.target = f'"{there.database}"."{there.schema}"."ITEMS"'
        self._landing = f'"{there.database}"."{there.landing_schema}"."LANDING_ITEMS"'
        database.execute("create table items (a text, b text)")
        database.execute(f"insert into items values {rows}")
        self.ask(f"CREATE TABLE {self.target} (A VARCHAR, B VARCHAR, _ETL_SPECIAL VARCHAR)")
        columns = POSITION.replace(",", " NUMBER,")
        self.ask(f"CREATE TABLE {self._landing} ({columns} NUMBER)")

    def ask(self, statement: str) -> None:
        with self._session.cursor() as cursor:
            cursor.execute(statement)

    def show(self, rows: str) -> None:
        """More rows of the target."""
        self.ask(f"INSERT INTO {self.target} (A, B) VALUES {rows}")

    def land(self, index: int) -> None:
        """A row of the change log."""
        self.ask(f"INSERT INTO {self._landing} ({POSITION}) VALUES (1, 2, 3, {index})")

    def compare(self, *key: str) -> Difference:
        name = TableName("public", "items")
        return compare_table(self._database.server.psql_path, self._database.url, self._session, name, key, self._there)


def test_a_row_that_is_there_twice_and_one_that_is_not_there_are_both_seen(
    database: Database, session: Any, destination: Destination
) -> None:
    pair = Pair(database, session, destination, "('1', 'x'), ('2', 'y'), ('3', 'z')")
    pair.show("('1', 'x'), ('2', 'y'), ('3', 'z')")
    assert pair.compare("a") == Difference("public.items", 3, 3, 0, 0, 0, 0, 0, ())
    pair.ask(f"DELETE FROM {pair.target} WHERE A = '3'")
    pair.show("('2', 'y')")  # as many rows as in the source
    found = pair.compare("a")
    assert found == Difference("public.items", 3, 3, 1, 0, 0, 1, 0, ("missing 3", "doubled 2"))
    assert found.total == 2


def test_a_row_that_nobody_has_and_another_value_are_seen_and_a_position_that_was_landed_twice(
    database: Database, session: Any, destination: Destination
) -> None:
    pair = Pair(database, session, destination, "('1', 'x'), ('2', 'y')")
    pair.show("('1', 'x'), ('2', NULL), ('4', 'q'), ('4', 'q')")
    for index in (1, 2, 2):
        pair.land(index)
    found = pair.compare("a")
    assert found == Difference("public.items", 2, 4, 0, 2, 1, 0, 1, ("extra 4", "unequal 2: column b"))
    assert found.total == 4


def test_equal_rows_of_a_table_without_a_key_are_counted(
    database: Database, session: Any, destination: Destination
) -> None:
    pair = Pair(database, session, destination, "('1', 'x'), ('1', 'x'), ('2', null), ('2', null)")
    pair.show("('1', 'x'), ('1', 'x'), ('2', NULL), ('2', NULL)")
    assert pair.compare("a", "b").total == 0
    pair.show("('1', 'x')")
    pair.ask(f"DELETE FROM {pair.target} WHERE A = '2'")
    pair.show("('2', NULL)")
    found = pair.compare("a", "b")
    assert (found.source_rows, found.target_rows, found.missing, found.extra, found.doubled) == (4, 4, 1, 0, 1)


def test_two_keys_whose_parts_read_alike_are_two(database: Database, session: Any, destination: Destination) -> None:
    pair = Pair(database, session, destination, "('1/2', '3')")
    pair.show("('1', '2/3')")
    found = pair.compare("a", "b")
    assert (found.missing, found.extra) == (1, 1)
