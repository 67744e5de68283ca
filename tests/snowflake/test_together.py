"""The joint block on a real connector: tables of every policy, moved to one fence, or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import ApplyTogether, OpenTable, Part
from etl_supervisor.model.apply_policy import ApplyPolicy, Deletes
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Table, TableName
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, History, commit_of, insert, opening
from workers.snowflake import ddl, together
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of

POLICY = ApplyPolicy(together=True)
KEPT = replace(TABLE, name=TableName("public", "kept"), oid=2)
BAG = replace(
    TABLE,
    name=TableName("public", "bag"),
    oid=3,
    columns=tuple(replace(column, key=False) for column in TABLE.columns),
)
OWN = {KEPT.name: replace(POLICY, delete=Deletes.SOFT, history=True)}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def opened(session: Any, destination: Destination, *tables: Table, generation: int = 100) -> None:
    for table in tables:
        ddl.ensure(session, own(destination, table, generation=generation))


def own(destination: Destination, table: Table, **changes: Any) -> OpenTable:
    return opening(destination, table, policy=OWN.get(table.name, POLICY), **changes)


def wanted(destination: Destination, fence: int, *tables: Table, **changes: Any) -> ApplyTogether:
    parts = tuple(Part(table.name, changes.pop(table.name.name, 100), 0, rows=True) for table in tables)
    return replace(ApplyTogether(1, "pipe", "sys/slot", 1, destination, fence, parts), **changes)


def query(session: Any, text: str) -> list[tuple[Any, ...]]:
    with session.cursor() as cursor:
        return [tuple(row) for row in cursor.execute(text).fetchall()]


def rows(session: Any, destination: Destination, table: Table, where: str = "TRUE") -> dict[int, tuple[Any, ...]]:
    text = f"SELECT K, A, BIG, OTHER FROM {objects_of(destination, table).target_sql} WHERE {where}"
    return {int(k): (int(a), big, other) for k, a, big, other in query(session, text)}


def mark(session: Any, destination: Destination) -> tuple[int, int | None]:
    """The pipeline's row: how far, and when the newest transaction was committed."""
    text = f"SELECT APPLIED, COMMITTED_AT FROM {objects_of(destination, TABLE).watermark_sql} WHERE SOURCE_TABLE = ''"
    ((applied, at),) = query(session, text)
    return int(applied), commit_of(at)


@pytest.mark.parametrize("seed", range(3))
def test_tables_of_several_policies_show_one_moment(session: Any, destination: Destination, seed: int) -> None:
    histories = {table.name: (table, History(random.Random(seed * 10 + table.oid))) for table in (TABLE, KEPT)}
    bag: Counter[int] = Counter()
    opened(session, destination, TABLE, KEPT, BAG)
    chance, lsn = random.Random(seed), 1000
    for _ in range(5):
        for _ in range(chance.randint(1, 8)):
            commit = lsn
            for _, history in histories.values():
                history.lsn = lsn
                lsn = max(lsn, history.transaction())
            commit = lsn - 10
            value = chance.randint(1, 3)
            gone = bag[value] > 0 and chance.random() < 0.4
            bag[value] += -1 if gone else 1
            insert(
                session,
                destination,
                [("D" if gone else "I", 100, commit, commit - 1, 0, None, None, value, 1, None, None)],
                BAG,
            )
        for table, history in histories.values():
            if history.landed:
                insert(session, destination, history.landed, table)
                history.landed.clear()
        together.apply(session, wanted(destination, lsn, TABLE, KEPT, BAG))
        assert rows(session, destination, TABLE) == histories[TABLE.name][1].rows
        assert rows(session, destination, KEPT, "NOT COALESCE(_ETL_DELETED, FALSE)") == histories[KEPT.name][1].rows
        found = query(session, f"SELECT K, COUNT(*) FROM {objects_of(destination, BAG).target_sql} GROUP BY K")
        assert {int(k): int(n) for k, n in found} == {k: n for k, n in bag.items() if n}
        assert mark(session, destination) == (lsn, commit)
    text = f"SELECT K, A, BIG, OTHER, _ETL_FROM_LSN, _ETL_TO_LSN FROM {objects_of(destination, KEPT).history_sql}"
    versions = [
        (int(k), (int(a), big, other), int(a_), b_ and int(b_)) for k, a, big, other, a_, b_ in query(session, text)
    ]
    assert sorted(versions, key=repr) == histories[KEPT.name][1].seen


def two_with_rows(session: Any, destination: Destination) -> None:
    opened(session, destination, TABLE, KEPT)
    for table in (TABLE, KEPT):
        insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)], table)


def test_a_joint_block_that_comes_twice_does_nothing(session: Any, destination: Destination) -> None:
    two_with_rows(session, destination)
    together.apply(session, wanted(destination, 20, TABLE, KEPT))
    query(session, f"UPDATE {objects_of(destination, TABLE).target_sql} SET A = 99")
    together.apply(session, wanted(destination, 20, TABLE, KEPT))
    assert rows(session, destination, TABLE) == {1: (99, "x", None)}
    assert mark(session, destination) == (20, 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("EPOCH = 2", "somebody else has moved or altered its tables"),
        ("OFFERED = ''", "table public.kept is being altered"),
        ("APPLIED = 30", "table public.kept is further than the others"),
        ("GENERATION = 101", "table public.kept has another owner or generation"),
        ("OWNER = 'sys/other'", "table public.kept has another owner or generation"),
    ],
)
def test_a_table_that_another_one_has_keeps_all_of_them_where_they_are(
    session: Any, destination: Destination, change: str, reason: str
) -> None:
    two_with_rows(session, destination)
    objects = objects_of(destination, KEPT)
    query(session, f"UPDATE {objects.watermark_sql} SET {change} WHERE LANDING_TABLE = '{objects.landing}'")
    with pytest.raises(EtlError) as caught:
        together.apply(session, wanted(destination, 20, TABLE, KEPT))
    assert caught.value.line == f"apply at pipeline pipe: {reason} (it is tried again by itself)"
    assert rows(session, destination, TABLE) == {}
    assert mark(session, destination)[0] == 0


def test_a_block_that_was_written_for_an_older_shape_does_nothing(session: Any, destination: Destination) -> None:
    two_with_rows(session, destination)
    message = wanted(destination, 20, TABLE, KEPT)
    with session.cursor() as cursor:
        pipeline, marks = together._read(cursor, message)
        moves = [together._move(cursor, message, *pair) for pair in zip(message.parts, marks, strict=True)]
        wider = replace(KEPT, version=1, columns=(*KEPT.columns, replace(KEPT.columns[1], name="b")))
        ddl.ensure(session, own(destination, wider))
        (outcome,) = cursor.execute(together.block(message, pipeline, moves)).fetchone()
    assert outcome == "fence moved"
    assert rows(session, destination, KEPT) == {}
    together.apply(session, message)
    assert rows(session, destination, KEPT) == {1: (1, "x", None)}


def test_a_statement_that_fails_takes_all_tables_back(session: Any, destination: Destination) -> None:
    two_with_rows(session, destination)
    together.apply(session, wanted(destination, 20, TABLE, KEPT))
    for table in (TABLE, KEPT):
        insert(session, destination, [("U", 100, 30, 1, 0, None, None, 1, 2, "y", None)], table)
    query(session, f"DROP TABLE {objects_of(destination, KEPT).history_sql}")
    with pytest.raises(EtlError, match=r"at pipeline pipe: .*KEPT_HISTORY"):
        together.apply(session, wanted(destination, 40, TABLE, KEPT))
    assert rows(session, destination, TABLE) == rows(session, destination, KEPT) == {1: (1, "x", None)}
    assert mark(session, destination) == (20, 10)


def test_a_table_that_was_copied_again_is_replaced_in_the_same_transaction(
    session: Any, destination: Destination
) -> None:
    two_with_rows(session, destination)
    together.apply(session, wanted(destination, 20, TABLE, KEPT))
    opened(session, destination, KEPT, generation=200)
    insert(session, destination, [("R", 200, 24, 1, 0, None, None, 2, 7, "z", None)], KEPT)
    insert(session, destination, [("U", 100, 30, 1, 0, None, None, 1, 2, "y", None)])
    message = wanted(destination, 40, TABLE, KEPT, kept=200)
    message = replace(message, parts=(message.parts[0], replace(message.parts[1], copied=24)))
    together.apply(session, message)
    assert rows(session, destination, TABLE) == {1: (2, "y", None)}
    assert rows(session, destination, KEPT, "NOT COALESCE(_ETL_DELETED, FALSE)") == {2: (7, "z", None)}
    assert mark(session, destination) == (40, 30)


def test_a_block_that_is_too_long_is_refused(
    session: Any, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_with_rows(session, destination)
    monkeypatch.setattr(together, "BLOCK_BYTES_MAX", 1000)
    with pytest.raises(EtlError) as caught:
        together.apply(session, wanted(destination, 20, TABLE, KEPT))
    assert caught.value.line == (
        "apply at pipeline pipe: the block of 2 tables with rows is longer than Snowflake takes"
        " (cut the pipeline into several, or set its consistency to table)"
    )


def test_a_pipeline_that_goes_back_to_single_tables_loses_its_row(session: Any, destination: Destination) -> None:
    two_with_rows(session, destination)
    together.apply(session, wanted(destination, 20, TABLE, KEPT))
    it = replace(own(destination, TABLE), policy=ApplyPolicy())
    there = ddl.ensure(session, it).watermark
    assert query(session, f"SELECT * FROM {objects_of(destination, TABLE).watermark_sql} WHERE SOURCE_TABLE = ''") == []
    insert(session, destination, [("U", 100, 30, 1, 0, None, None, 1, 2, "y", None)])
    assert apply(session, it, there, 40).applied == 40
    assert rows(session, destination, TABLE) == {1: (2, "y", None)}
