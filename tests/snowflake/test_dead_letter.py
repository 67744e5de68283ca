"""The dead letter's table, by the real connector: written twice it is there once, and nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake import ddl, dead_letter
from workers.snowflake.dead_letter import PART_CHARACTERS, DeadRow
from workers.snowflake.identifiers import objects_of
from workers.snowflake.limits import Verdict

TABLE = Table(
    TableName("public", "things"),
    1,
    (Column("k", ValueType(ValueKind.INT32), key=True), Column("note", ValueType(ValueKind.TEXT))),
)


@pytest.fixture
def opened(destination: Destination) -> Iterator[tuple[Any, OpenTable, str]]:
    opening = OpenTable(1, 1, "pipe", "sys/slot", 1, 100, "channel", destination, TABLE, "")
    with sql_session(destination) as session:
        ddl.ensure(session, opening)
        yield session, opening, objects_of(destination, TABLE).dead_letter_sql


def row(ordinal: int, payload: str = '{"K":1,"NOTE":"x"}') -> DeadRow:
    verdict = Verdict("Snowflake refuses the row", None, 0, "it's a \\ message")
    return DeadRow(Position(100, 2**63 + 5, 7, ordinal), "I", '{"k":1}', verdict, payload, None)


def test_rows_that_come_twice_are_there_once(opened: Any) -> None:
    session, opening, table = opened
    assert dead_letter.write(session, opening, [row(0), row(2)]) == 2
    assert dead_letter.write(session, opening, [row(2), row(4)]) == 1
    assert dead_letter.count(session, opening) == 3
    assert dead_letter.count(session, replace(opening, table=replace(TABLE, name=TableName("public", "other")))) == 0
    with session.cursor() as cursor:
        found = cursor.execute(f"SELECT COMMIT_LSN, ORDINAL, REASON FROM {table} ORDER BY ORDINAL").fetchall()
    assert [(int(a), int(b)) for a, b, _ in found] == [(2**63 + 5, n) for n in (0, 2, 4)]
    assert found[0][2] == "Snowflake refuses the row: it's a \\ message"


def test_a_payload_longer_than_a_statement_lies_in_parts(opened: Any) -> None:
    session, opening, table = opened
    payload = '{"NOTE":"' + "é\\n'" * PART_CHARACTERS + '"}'
    dead_letter.write(session, opening, [row(0, payload), row(2)])
    assert dead_letter.count(session, opening) == 2
    with session.cursor() as cursor:
        found = cursor.execute(f"SELECT PAYLOAD FROM {table} WHERE ORDINAL = 0 ORDER BY PART").fetchall()
    assert len(found) == 5
    assert "".join(text for (text,) in found) == payload


def test_hundreds_of_rows_take_a_few_statements(opened: Any) -> None:
    session, opening, _ = opened
    assert dead_letter.write(session, opening, [row(n) for n in range(3000)]) == 3000
