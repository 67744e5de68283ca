"""Every way to keep a current table, on a real connector: random histories, cut at random fences, equal what a plain model says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyPolicy, Deletes
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import History, commit_of, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def query(session: Any, text: str) -> list[tuple[Any, ...]]:
    with session.cursor() as cursor:
        cursor.execute(text)
        return [tuple(int(v) if isinstance(v, int) else v for v in row) for row in cursor.fetchall()]


def live(session: Any, it: OpenTable) -> dict[int, tuple[Any, ...]]:
    rows = query(session, f"SELECT K, A, BIG, OTHER FROM {objects_of(it.destination, it.table).live_sql}")
    assert len({row[0] for row in rows}) == len(rows)
    return {k: tuple(rest) for k, *rest in rows}


def with_deleted(session: Any, it: OpenTable) -> dict[int, tuple[Any, ...]]:
    text = f"SELECT K, A, BIG, OTHER, _ETL_DELETED_AT, _ETL_DELETED FROM {objects_of(it.destination, it.table).target_sql}"
    found = {}
    for k, a, big, other, deleted_at, deleted in query(session, text):
        assert deleted == (deleted_at is not None)
        found[k] = (a, big, other, commit_of(deleted_at))
    return found


def versions(session: Any, it: OpenTable) -> list[tuple[Any, ...]]:
    text = (
        "SELECT K, A, BIG, OTHER, _ETL_FROM_LSN, _ETL_TO_LSN, _ETL_VALID_FROM, _ETL_VALID_TO"
        f" FROM {objects_of(it.destination, it.table).history_sql}"
    )
    found = []
    for k, a, big, other, begin, end, valid_from, valid_to in query(session, text):
        assert (commit_of(valid_from), commit_of(valid_to)) == (begin, end)
        found.append((k, (a, big, other), begin, end))
    return sorted(found, key=repr)


@pytest.mark.parametrize("seed", range(4))
def test_soft_deletes_history_and_live_view_do_not_depend_on_where_windows_are_cut(
    session: Any, destination: Destination, seed: int
) -> None:
    history = History(random.Random(seed))
    it = opening(destination, policy=ApplyPolicy(delete=Deletes.SOFT, history=True))
    mark = ddl.ensure(session, it).watermark
    for number in range(6):
        for _ in range(history.chance.randint(1, 12)):
            fence = history.transaction()
        if history.landed:
            insert(session, destination, history.landed)
            history.landed.clear()
        if number:
            assert live(session, it) == history.rows
        mark = apply(session, it, mark, fence)
        assert with_deleted(session, it) == history.kept
        assert versions(session, it) == history.seen
        assert live(session, it) == history.rows
