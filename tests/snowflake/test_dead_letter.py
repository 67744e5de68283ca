"""The dead letter's table, by the real connector: written twice it is there once, and nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
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
from workers.snowflake.replay import Outcome, drop, listed, replay

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


def replayed(session: Any, opening: OpenTable) -> list[Outcome]:
    rows = listed(session, opening.destination, "pipe")
    return [outcome for _, outcome in replay(session, opening.destination, rows)]


def payload_of(**values: Any) -> str:
    place = {"_ETL_OP": "I", "_ETL_GENERATION": 100, "_ETL_COMMIT_LSN": 2**63 + 5, "_ETL_LSN": 7, "_ETL_INDEX": 0}
    return orjson.dumps({**place, **values}).decode()


def test_a_row_is_replayed_when_it_is_whole_and_the_target_has_come_past_it(opened: Any) -> None:
    session, opening, table = opened
    objects = objects_of(opening.destination, TABLE)
    dead_letter.write(session, opening, [row(0, payload_of(K=1, NOTE="it's"))])
    assert replayed(session, opening) == [Outcome.TOO_EARLY]
    with session.cursor() as cursor:
        cursor.execute(f"UPDATE {objects.watermark_sql} SET APPLIED = {2**63 + 100}")
        assert replayed(session, opening) == [Outcome.REPLAYED]
        assert cursor.execute(f"SELECT K, NOTE FROM {objects.target_sql}").fetchall() == [(1, "it's")]
        assert int(cursor.execute(f"SELECT COUNT(*) FROM {objects.landing_sql}").fetchone()[0]) == 1
        assert int(cursor.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]) == 0
        dead_letter.write(session, opening, [row(0, payload_of(K=1, OTHER="renamed since"))])
        assert replayed(session, opening) == [Outcome.RESHAPED]
        drop(session, opening.destination, [item["id"] for item in listed(session, opening.destination, None)])
        dead_letter.write(session, opening, [replace(row(0, payload_of(K=1, NOTE=None)), left_out="{}")])
        assert replayed(session, opening) == [Outcome.INCOMPLETE]
        cursor.execute(f"UPDATE {objects.watermark_sql} SET GENERATION = 101")
        assert replayed(session, opening) == [Outcome.OVERTAKEN]


def test_a_landing_schema_without_dead_rows_lists_none(destination: Destination) -> None:
    with sql_session(destination) as session:
        assert listed(session, destination, None) == []
