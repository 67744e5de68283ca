"""Dead rows that are replayed under every policy: in the end target and history are as if no row had ever died."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyPolicy, Deletes
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from tests.snowflake.test_apply_modes import KEYLESS, Bag, bag, live, target, versions, with_deleted
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import History, insert, opening, time_of
from workers.snowflake import ddl, dead_letter
from workers.snowflake.apply import apply
from workers.snowflake.dead_letter import DeadRow
from workers.snowflake.identifiers import objects_of
from workers.snowflake.limits import Verdict
from workers.snowflake.replay import Outcome, listed, replay
from workers.snowflake.sftypes import LANDING_META

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def dead_row(row: tuple[Any, ...]) -> DeadRow:
    """A row of `insert`, as it would come into the dead letter."""
    op, generation, commit, lsn, index, unchanged, old, k, *_ = row
    names = [name for name, _ in LANDING_META] + ["K", "A", "BIG", "OTHER"]
    payload = dict.fromkeys(names) | {"_ETL_OP": op, "_ETL_GENERATION": generation, "_ETL_COMMIT_LSN": commit}
    payload |= {"_ETL_LSN": lsn, "_ETL_INDEX": index, "_ETL_UNCHANGED": unchanged, "_ETL_OLD_KEY": old}
    payload |= {"_ETL_COMMIT_TS": time_of(commit)} | dict(zip(("K", "A", "BIG", "OTHER"), row[7:], strict=True))
    place, key = Position(generation, commit, lsn, index), json.dumps({"k": k})
    return DeadRow(place, op, key, Verdict("refused", None, 0), json.dumps(payload), None, unchanged)


def land(session: Any, it: OpenTable, rows: list[tuple[Any, ...]], chance: random.Random) -> None:
    """Some rows die, the others are landed. Rows of changes that bring values die only: the others have nothing that is refused."""
    dying = [row for row in rows if row[0] in ("I", "U", "D") and chance.random() < 0.2]
    if dying:
        dead_letter.write(session, it, [dead_row(row) for row in dying])
    if living := [row for row in rows if row not in dying]:
        insert(session, it.destination, living, it.table)
    rows.clear()


def replay_all(session: Any, destination: Destination) -> None:
    rows = listed(session, destination, "pipe")
    assert len(rows) > 3
    assert {outcome for _, outcome in replay(session, destination, rows)} == {Outcome.REPLAYED}
    assert listed(session, destination, "pipe") == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "policy",
    [ApplyPolicy(), ApplyPolicy(delete=Deletes.SOFT, history=True), ApplyPolicy(history=True)],
    ids=["hard", "soft-history", "history"],
)
def test_replayed_rows_leave_no_trace_of_their_death(
    session: Any, destination: Destination, policy: ApplyPolicy, seed: int
) -> None:
    history, chance = History(random.Random(seed)), random.Random(seed)
    it = opening(destination, policy=policy)
    mark = ddl.ensure(session, it).watermark
    for _ in range(4):
        fence = [history.transaction() for _ in range(5)][-1]
        land(session, it, history.landed, chance)
        mark = apply(session, it, mark, fence)
    replay_all(session, destination)
    assert live(session, it) == history.rows
    if policy.soft:
        assert with_deleted(session, it) == history.kept
    else:
        assert target(session, it) == history.rows
    if policy.history:
        assert versions(session, it) == history.seen


@pytest.mark.parametrize("seed", range(2))
def test_replayed_rows_of_a_table_without_a_key_are_counted_once(
    session: Any, destination: Destination, seed: int
) -> None:
    source, chance = Bag(random.Random(seed)), random.Random(seed)
    it = opening(destination, KEYLESS)
    mark, objects = ddl.ensure(session, it).watermark, objects_of(destination, KEYLESS)
    for _ in range(4):
        fence = [source.transaction() for _ in range(4)][-1]
        land(session, it, source.landed, chance)
        mark = apply(session, it, mark, fence)
    replay_all(session, destination)
    assert bag(session, objects.target_sql) == +source.rows


def test_a_history_whose_log_is_not_whole_keeps_what_it_has(session: Any, destination: Destination) -> None:
    it = opening(destination, policy=ApplyPolicy(history=True))
    mark = ddl.ensure(session, it).watermark
    created = ("I", 100, 10, 1, 0, None, None, 1, 1, "x", "o")
    insert(session, destination, [created])
    mark = apply(session, it, mark, 20)
    objects = objects_of(destination, it.table)
    with session.cursor() as cursor:
        cursor.execute(f"UPDATE {objects.watermark_sql} SET PURGED = GENERATION")
        cursor.execute(f"DELETE FROM {objects.landing_sql}")
    dead_letter.write(session, it, [dead_row(("U", 100, 30, 1, 0, None, None, 1, 2, "dead", "o"))])
    apply(session, it, replace(mark), 40)
    rows = listed(session, destination, "pipe")
    assert [outcome for _, outcome in replay(session, destination, rows)] == [Outcome.REPLAYED]
    assert target(session, it) == {1: (2, "dead", "o")}
    assert versions(session, it) == [(1, (1, "x", "o"), 10, None)]
