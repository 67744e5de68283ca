"""The apply block on a real connector: random histories, cut at random fences, equal what a plain model says."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, TEXT, History, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def target(session: Any, destination: Destination) -> dict[int, tuple[Any, ...]]:
    with session.cursor() as cursor:
        cursor.execute(f"SELECT K, A, BIG, OTHER FROM {objects_of(destination, TABLE).target_sql}")
        return {int(k): (int(a), big, other) for k, a, big, other in cursor.fetchall()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(6))
def test_windows_of_any_size_give_what_the_source_has(session: Any, destination: Destination, seed: int) -> None:
    history = History(random.Random(seed))
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    for _ in range(8):
        for _ in range(history.chance.randint(1, 12)):
            fence = history.transaction()
        if history.landed:
            insert(session, destination, history.landed)
            history.landed.clear()
        mark = apply(session, it, mark, fence)
        assert mark.applied == fence
        assert target(session, destination) == history.rows


def test_a_block_that_comes_twice_or_too_late_does_nothing(session: Any, destination: Destination) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    moved = apply(session, it, mark, 20)
    with session.cursor() as cursor:
        cursor.execute(f"UPDATE {objects_of(destination, TABLE).target_sql} SET A = 99")
    assert apply(session, it, mark, 20) == moved
    assert target(session, destination) == {1: (99, "x", None)}


def test_blocks_at_the_same_moment_apply_once(destination: Destination, session: Any) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(8)])
    found = []

    def run() -> None:
        with sql_session(destination) as other:
            found.append(apply(other, it, mark, 20).applied)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert len(target(session, destination)) == 8


def test_an_older_readers_apply_is_refused(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    newer = opening(destination, epoch=2)
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    apply(session, newer, mark, 15)
    insert(session, destination, [("D", 100, 16, 1, 0, None, None, 1, None, None, None)])
    current = replace(mark, applied=15)
    assert apply(session, opening(destination, epoch=1), current, 20).applied == 15
    assert target(session, destination) == {1: (1, "x", None)}


def test_a_new_generation_replaces_the_target(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(5)])
    apply(session, opening(destination), mark, 20)
    later = opening(destination, generation=200)
    mark = ddl.ensure(session, later).watermark
    assert (mark.generation, mark.applied) == (200, 0)
    insert(session, destination, [("R", 200, 9, 1, n, None, None, n, 2, "y", None) for n in range(2)])
    apply(session, later, mark, 10)
    assert target(session, destination) == {0: (2, "y", None), 1: (2, "y", None)}


def test_another_owner_of_the_same_landing_table_is_refused(session: Any, destination: Destination) -> None:
    ddl.ensure(session, opening(destination))
    with pytest.raises(EtlError) as caught:
        ddl.ensure(session, opening(destination, pipeline_id=2, pipeline="other"))
    assert caught.value.line == (
        "destination_setup at pipeline other, table public.things: LANDING_THINGS belongs to table public.things of pipeline pipe"
        " (use another landing schema and schema for this pipeline)"
    )


def test_a_column_added_with_a_default_reaches_old_rows(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    mark = apply(session, opening(destination), mark, 12)
    insert(session, destination, [("I", 100, 13, 1, 0, None, None, 2, 1, "x", None)])
    grown = replace(
        TABLE, columns=(*TABLE.columns, Column("price", ValueType(ValueKind.NUMERIC, 10, 2), default="1.50")), version=1
    )
    it = opening(destination, table=grown)
    ddl.ensure(session, it)
    apply(session, it, mark, 20)
    with session.cursor() as cursor:
        rows = cursor.execute(f"SELECT K, PRICE FROM {objects_of(destination, TABLE).target_sql} ORDER BY K").fetchall()
    assert [(int(k), str(price)) for k, price in rows] == [(1, "1.50"), (2, "1.50")]


def test_a_default_that_its_column_can_not_hold_is_kept_as_text_in_old_rows(
    session: Any, destination: Destination
) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    mark = apply(session, opening(destination), mark, 12)
    insert(session, destination, [("I", 100, 13, 1, 0, None, None, 2, 1, "x", None)])
    added = (
        Column("until", ValueType(ValueKind.DATE), default="infinity"),
        Column("price", ValueType(ValueKind.NUMERIC, 10, 2), default="NaN"),
        Column("doc", ValueType(ValueKind.JSON), default="1" * 40),
    )
    it = opening(destination, table=replace(TABLE, columns=(*TABLE.columns, *added), version=1))
    ddl.ensure(session, it)
    apply(session, it, mark, 20)
    with session.cursor() as cursor:
        rows = cursor.execute(
            f"SELECT UNTIL, PRICE, DOC, _ETL_SPECIAL FROM {objects_of(destination, TABLE).target_sql} ORDER BY K"
        ).fetchall()
    for until, price, doc, special in rows:
        assert (until, price, json.loads(doc)) == (None, None, "1" * 40)
        assert json.loads(special) == {"until": "infinity", "price": "NaN"}
    assert len(rows) == 2


def test_names_that_can_not_be_are_refused(session: Any, destination: Destination) -> None:
    twice = replace(TABLE, columns=(*TABLE.columns, Column("BIG", TEXT)))
    with pytest.raises(EtlError, match="columns big and BIG are both BIG in Snowflake"):
        ddl.ensure(session, opening(destination, table=twice))
    ours = replace(TABLE, columns=(*TABLE.columns, Column("_etl_op", TEXT)))
    with pytest.raises(EtlError, match="which is the system's own"):
        ddl.ensure(session, opening(destination, table=ours))
