"""Every way to keep a current table, on a real connector: random histories, cut at random fences, equal what a plain model says."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy, Deletes
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, History, commit_of, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of
from workers.snowflake.purge import pause_seconds, purge

KEYLESS = replace(TABLE, columns=tuple(replace(column, key=False) for column in TABLE.columns))
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


def target(session: Any, it: OpenTable) -> dict[int, tuple[Any, ...]]:
    rows = query(session, f"SELECT K, A, BIG, OTHER FROM {objects_of(it.destination, it.table).target_sql}")
    return {k: tuple(rest) for k, *rest in rows}


def with_deleted(session: Any, it: OpenTable) -> dict[int, tuple[Any, ...]]:
    text = (
        f"SELECT K, A, BIG, OTHER, _ETL_DELETED_AT, _ETL_DELETED FROM {objects_of(it.destination, it.table).target_sql}"
    )
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


def test_rows_leave_the_change_log_when_they_are_applied_and_old_and_not_before(
    session: Any, destination: Destination
) -> None:
    it = opening(destination, policy=ApplyPolicy(retention_hours=1.0))
    mark = ddl.ensure(session, it).watermark
    landing = objects_of(destination, it.table).landing_sql
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(4)])
    session.cursor().execute(
        f"UPDATE {landing} SET _ETL_LOADED_AT = DATEADD(hour, IFF(K < 2, -2, 0), CURRENT_TIMESTAMP())"
    )
    assert purge(session, it) == 0, "not applied yet"
    apply(session, it, mark, 20)
    insert(session, destination, [("I", 100, 30, 1, 0, None, None, 9, 1, "x", None)])
    session.cursor().execute(f"UPDATE {landing} SET _ETL_LOADED_AT = '2020-01-01 00:00:00+00:00' WHERE K = 9")
    assert purge(session, it) == 2
    assert sorted(query(session, f"SELECT K FROM {landing}")) == [(2,), (3,), (9,)]
    assert sorted(live(session, it)) == [0, 1, 2, 3, 9]
    with pytest.raises(EtlError, match="rows have left LANDING_THINGS, and a dynamic table needs all of them"):
        ddl.ensure(session, opening(destination, policy=ApplyPolicy(mode=ApplyMode.DYNAMIC_TABLE)))


def test_nothing_is_purged_where_the_log_is_all_there_is(destination: Destination) -> None:
    for mode in (ApplyMode.APPEND, ApplyMode.DYNAMIC_TABLE):
        assert pause_seconds(opening(destination, policy=ApplyPolicy(mode=mode, retention_hours=1.0))) is None


def test_a_generation_that_is_not_whole_is_not_shown(session: Any, destination: Destination) -> None:
    policy = ApplyPolicy(delete=Deletes.SOFT, history=True)
    it = opening(destination, policy=policy)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", "y") for n in range(3)])
    apply(session, it, mark, 20)
    later = opening(destination, policy=policy, generation=200)
    mark = ddl.ensure(session, later).watermark
    stale = [
        ("U", 200, 5, 1, 0, '["big"]', None, 0, 7, None, "old"),
        ("D", 200, 7, 1, 0, None, None, 8, None, None, None),
    ]
    insert(session, destination, [*stale, ("R", 200, 9, 1, 0, None, None, 0, 2, "y", "z")])
    assert sorted(live(session, later)) == [0, 1, 2], "the last state that was whole"
    insert(session, destination, [("U", 200, 12, 1, 0, '["big"]', None, 0, 3, None, "new")])
    apply(session, later, mark, 20, 9)
    assert live(session, later) == {0: (3, "y", "new")}
    text = f"SELECT K, A, BIG, OTHER, _ETL_DELETED FROM {objects_of(destination, it.table).target_sql} ORDER BY K"
    assert query(session, text) == [(0, 3, "y", "new", False), (1, 1, "x", "y", True), (2, 1, "x", "y", True)]
    history = f"SELECT K, A, OTHER, _ETL_FROM_LSN, _ETL_TO_LSN FROM {objects_of(destination, it.table).history_sql} ORDER BY 4, 1"
    older = [(k, 1, "y", 10, 9) for k in range(3)]
    assert query(session, history) == [(0, 2, "z", 9, 12), *older, (0, 3, "new", 12, None)]


def test_a_history_that_was_switched_off_begins_again(session: Any, destination: Destination) -> None:
    plain, kept = opening(destination), opening(destination, policy=ApplyPolicy(history=True))
    mark = ddl.ensure(session, plain).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in (1, 2)])
    mark = apply(session, plain, mark, 20)
    assert ddl.ensure(session, kept).watermark == mark
    assert versions(session, kept) == [(n, (1, "x", None), 10, None) for n in (1, 2)]
    ddl.ensure(session, plain)
    insert(session, destination, [("D", 100, 25, 1, 0, None, None, 1, None, None, None)])
    mark = apply(session, plain, mark, 30)
    ddl.ensure(session, kept)
    ddl.ensure(session, kept)
    rows = query(
        session, f"SELECT K, _ETL_FROM_LSN, _ETL_TO_LSN FROM {objects_of(destination, kept.table).history_sql}"
    )
    assert sorted(rows, key=repr) == [(1, 10, 30), (2, 10, 30), (2, 10, None)]


def test_deleted_rows_go_when_they_are_no_longer_kept(session: Any, destination: Destination) -> None:
    soft = opening(destination, policy=ApplyPolicy(delete=Deletes.SOFT))
    mark = ddl.ensure(session, soft).watermark
    rows = [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in (1, 2)]
    insert(session, destination, [*rows, ("D", 100, 12, 1, 0, None, None, 1, None, None, None)])
    apply(session, soft, mark, 20)
    assert sorted(with_deleted(session, soft)) == [1, 2]
    ddl.ensure(session, opening(destination))
    assert sorted(with_deleted(session, soft)) == [2]


class Bag:
    """A table without a key: equal rows, changed by whole rows."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.rows, self.landed, self.lsn = chance, Counter[tuple[Any, ...]](), [], 1000

    def transaction(self) -> int:
        commit = self.lsn + 500
        for _ in range(self.chance.randint(1, 8)):
            self.lsn += 10
            kind, row = self.chance.random(), (self.chance.randint(1, 2), 1, self.chance.choice(["x", None]), None)
            if kind < 0.03:
                self.rows.clear()
                self.land(commit, "T", (None, None, None, None))
            elif kind < 0.5 or not self.rows.total():
                self.take(commit, row, +1)
            else:
                self.take(commit, self.chance.choice(sorted(self.rows.elements(), key=repr)), -1)
                if kind > 0.75:
                    self.take(commit, row, +1, index=1)
        self.lsn = commit + 50
        return self.lsn

    def take(self, commit: int, row: tuple[Any, ...], number: int, index: int = 0) -> None:
        self.rows[row] += number
        self.land(commit, "I" if number > 0 else "D", row, index)

    def land(self, commit: int, op: str, row: tuple[Any, ...], index: int = 0) -> None:
        self.landed.append((op, 100, commit, self.lsn, index, None, None, *row))


def bag(session: Any, name: str) -> Counter[tuple[Any, ...]]:
    return Counter(query(session, f"SELECT K, A, BIG, OTHER FROM {name}"))


@pytest.mark.parametrize("seed", range(3))
def test_a_table_without_a_key_has_as_many_equal_rows_as_its_source(
    session: Any, destination: Destination, seed: int
) -> None:
    it, source = opening(destination, KEYLESS), Bag(random.Random(seed))
    mark, objects = ddl.ensure(session, it).watermark, objects_of(destination, KEYLESS)
    for number in range(8):
        for _ in range(source.chance.randint(1, 6)):
            fence = source.transaction()
        insert(session, destination, source.landed)
        source.landed.clear()
        if number:
            assert bag(session, objects.live_sql) == +source.rows
        before, mark = mark, apply(session, it, mark, fence)
        assert bag(session, objects.target_sql) == bag(session, objects.live_sql) == +source.rows
        assert apply(session, it, before, fence) == mark, "a block that comes again counts nothing twice"
        assert bag(session, objects.target_sql) == +source.rows


def test_an_update_that_does_not_tell_which_row_it_replaces_stops_a_table_without_a_key(
    session: Any, destination: Destination
) -> None:
    it = opening(destination, KEYLESS)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("U", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    with pytest.raises(EtlError, match="an update does not bring the row that it replaces") as caught:
        apply(session, it, mark, 20)
    assert caught.value.kind is Kind.SCHEMA


@pytest.fixture
def fast_minutes(local_snowflake: LocalSnowflake) -> Iterator[None]:
    local_snowflake.set(minute_s=0.3)
    yield
    local_snowflake.set(minute_s=60)


def task_reaches(session: Any, it: OpenTable, fence: int) -> None:
    objects = objects_of(it.destination, it.table)
    mark = f"SELECT APPLIED FROM {objects.watermark_sql} WHERE LANDING_TABLE = '{objects.landing}'"
    wait_for("the task to apply", lambda: query(session, mark) == [(fence,)])


@pytest.mark.usefixtures("fast_minutes", "may_make_tasks")
@pytest.mark.parametrize(
    "policy", [ApplyPolicy(), ApplyPolicy(delete=Deletes.SOFT, history=True)], ids=["hard", "soft"]
)
def test_a_task_applies_as_far_as_the_log_is_whole(session: Any, destination: Destination, policy: ApplyPolicy) -> None:
    it = opening(destination, policy=replace(policy, mode=ApplyMode.TASK, schedule_minutes=1))
    history, mark = History(random.Random(5)), ddl.ensure(session, it).watermark
    for _ in range(5):
        for _ in range(history.chance.randint(1, 8)):
            fence = history.transaction()
        seen = dict(history.rows), dict(history.kept), history.seen
        whole, history.landed = history.landed, []
        history.transaction()  # lands too, beyond the fence
        insert(session, destination, [*whole, *history.landed])
        history.landed.clear()
        mark = apply(session, it, mark, fence)
        task_reaches(session, it, mark.applied)
        if policy.soft:
            assert (with_deleted(session, it), versions(session, it)) == seen[1:]
        else:
            assert target(session, it) == seen[0]
        assert live(session, it) == history.rows


@pytest.mark.usefixtures("may_make_tasks")
def test_a_task_that_runs_seldom_begins_at_the_copy(
    session: Any, destination: Destination, local_snowflake: LocalSnowflake
) -> None:
    it = opening(destination, policy=ApplyPolicy(mode=ApplyMode.TASK, schedule_minutes=1440))
    history, mark = History(random.Random(2)), ddl.ensure(session, it).watermark
    objects = objects_of(destination, it.table)
    session.cursor().execute(f"ALTER TASK {objects.task_sql} SUSPEND")
    copied = history.transaction()
    for _ in range(3):  # fences that nothing has applied yet
        fence = history.transaction()
        insert(session, destination, history.landed)
        history.landed.clear()
        mark = apply(session, it, mark, fence, copied=copied - 1)
    session.cursor().execute(f"ALTER TASK {objects.task_sql} RESUME")
    task_reaches(session, it, fence)
    assert target(session, it) == history.rows


@pytest.mark.usefixtures("fast_minutes", "may_make_tasks")
def test_a_task_keeps_a_table_without_a_key(session: Any, destination: Destination) -> None:
    it = opening(destination, KEYLESS, policy=ApplyPolicy(mode=ApplyMode.TASK, schedule_minutes=1))
    source, mark = Bag(random.Random(1)), ddl.ensure(session, it).watermark
    for _ in range(3):
        fence = [source.transaction() for _ in range(5)][-1]
        insert(session, destination, source.landed)
        source.landed.clear()
        mark = apply(session, it, mark, fence)
        task_reaches(session, it, mark.applied)
        assert bag(session, objects_of(destination, KEYLESS).target_sql) == +source.rows


@pytest.mark.usefixtures("may_make_dynamic_tables")
@pytest.mark.parametrize("seed", range(2))
def test_a_dynamic_table_shows_what_the_log_says(session: Any, destination: Destination, seed: int) -> None:
    it = opening(destination, policy=ApplyPolicy(mode=ApplyMode.DYNAMIC_TABLE))
    history, mark = History(random.Random(seed)), ddl.ensure(session, it).watermark
    for _ in range(5):
        fence = [history.transaction() for _ in range(5)][-1]
        insert(session, destination, history.landed)
        history.landed.clear()
        mark = apply(session, it, mark, fence)
        assert target(session, it) == history.rows
    later = opening(destination, policy=it.policy, generation=200)
    mark = ddl.ensure(session, later).watermark
    insert(session, destination, [("R", 200, 9, 1, 0, None, None, 0, 2, "y", "z")])
    assert target(session, later) == history.rows, "the copy is not whole"
    apply(session, later, mark, 20, 9)
    assert target(session, later) == {0: (2, "y", "z")}


MODES = (ApplyMode.MERGE, ApplyMode.VIEW, ApplyMode.TASK, ApplyMode.APPEND)


@pytest.mark.usefixtures("fast_minutes", "may_make_tasks")
@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_modes_change_without_a_copy(
    session: Any, destination: Destination, before: ApplyMode, after: ApplyMode
) -> None:
    history, landing = History(random.Random(3)), objects_of(destination, TABLE).landing_sql
    for number, mode in enumerate((ApplyMode.MERGE, before, after, ApplyMode.MERGE)):
        it = opening(destination, policy=ApplyPolicy(mode=mode, retention_hours=0, schedule_minutes=1))
        mark = ddl.ensure(session, it).watermark
        fence = [history.transaction() for _ in range(4)][-1]
        insert(session, destination, history.landed)
        history.landed.clear()
        if mode.has_target:
            moved = apply(session, it, mark, fence)
            if mode is ApplyMode.TASK:
                task_reaches(session, it, moved.applied)
            assert target(session, it) == history.rows, number
            query(session, f"UPDATE {landing} SET _ETL_LOADED_AT = '2020-01-01 00:00:00+00:00'")
            assert live(session, it) == history.rows
            assert purge(session, it) > 0
            assert query(session, f"SELECT COUNT(*) FROM {landing}") == [(0,)]
            assert live(session, it) == history.rows, "what was applied is not needed in the log any more"
    with pytest.raises(ProgrammingError):  # with the task of an older mode its stream is gone
        query(session, f"SELECT 1 FROM {objects_of(destination, TABLE).stream_sql}")


def test_a_target_that_was_left_alone_gets_the_columns_that_came_meanwhile(
    session: Any, destination: Destination
) -> None:
    history = History(random.Random(6))
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    fence = [history.transaction() for _ in range(5)][-1]
    insert(session, destination, history.landed)
    history.landed.clear()
    apply(session, it, mark, fence)
    append = ApplyPolicy(mode=ApplyMode.APPEND)
    ddl.ensure(session, opening(destination, policy=append))
    wider = replace(TABLE, version=1, columns=(*TABLE.columns, replace(TABLE.columns[1], name="more", attnum=9)))
    ddl.ensure(session, opening(destination, wider, policy=append))
    fence = [history.transaction() for _ in range(5)][-1]
    insert(session, destination, history.landed)
    ensured = ddl.ensure(session, opening(destination))
    assert [column.name for column in ensured.table.columns][-1] == "more"
    apply(session, replace(it, table=ensured.table), ensured.watermark, fence)
    assert target(session, it) == history.rows
    assert query(session, f"SELECT MORE FROM {objects_of(destination, TABLE).target_sql} WHERE MORE IS NOT NULL") == []


@pytest.mark.usefixtures("may_make_dynamic_tables")
def test_a_dynamic_table_becomes_a_merged_one(session: Any, destination: Destination) -> None:
    history, rows = History(random.Random(4)), opening(destination, policy=ApplyPolicy(mode=ApplyMode.DYNAMIC_TABLE))
    mark = ddl.ensure(session, rows).watermark
    fence = [history.transaction() for _ in range(9)][-1]
    insert(session, destination, history.landed)
    apply(session, rows, mark, fence)
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    assert mark.applied == 0
    apply(session, it, mark, fence)
    assert target(session, it) == history.rows


def test_a_table_whose_name_another_tables_live_view_has_takes_its_place(
    session: Any, destination: Destination
) -> None:
    named = replace(TABLE, name=TableName("public", "things_live"), oid=2)
    ddl.ensure(session, opening(destination))
    it = opening(destination, named)
    mark = ddl.ensure(session, it).watermark
    ddl.ensure(session, opening(destination, policy=ApplyPolicy(delete=Deletes.SOFT)))
    apply(session, it, mark, 20)
    assert target(session, it) == {}


def test_a_history_and_a_table_of_one_name_are_refused(session: Any, destination: Destination) -> None:
    kept = ApplyPolicy(history=True)
    named = opening(destination, replace(TABLE, name=TableName("public", "things_history"), oid=2))
    ddl.ensure(session, opening(destination, policy=kept))
    with pytest.raises(EtlError, match="THINGS_HISTORY is the history of another table"):
        ddl.ensure(session, named)
    ddl.ensure(session, opening(destination))
    session.cursor().execute(f"DROP TABLE {objects_of(destination, TABLE).history_sql}")
    ddl.ensure(session, named)
    with pytest.raises(EtlError, match="THINGS_HISTORY is the target of another table"):
        ddl.ensure(session, opening(destination, policy=kept))
