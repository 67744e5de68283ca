"""Copies at snapshots of a real server: ranges cover a table once, and a copy that was killed is completed soundly."""

from __future__ import annotations

import contextlib
import random
import selectors
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.copy_state import CopiedRange, merged
from etl_supervisor.model.table import TableName
from tests.support import least
from tests.support.copying import copied
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader.csv import Converted, parse_lines, text_of
from workers.reader.heartbeat import Access
from workers.reader.lane import Lanes, Task, chunks
from workers.reader.ranges import Range, plan, seen_again, still_good
from workers.reader.snapshot import Found, Snapshot

ROWS = 400
Rows = dict[tuple[str | None, ...], tuple[str | None, ...]]


@contextlib.contextmanager
def snapshot_of(database: Database) -> Iterator[Snapshot]:
    source, password = source_of(database)
    name = f"copy_{uuid.uuid4().hex[:10]}"
    with contextlib.closing(Snapshot(Access(source, password, None, ""), name, lambda: None)) as snapshot:
        yield snapshot


def read(snapshot: Snapshot, found: Found, wanted: Range) -> Rows:
    """The rows of a range, by their first two columns."""
    rows: Rows = {}
    for chunk in chunks(snapshot.first, replace(found, binary=False), wanted):
        strings = parse_lines(text_of(chunk), len(chunk), found.table)
        for row in zip(*(column.to_pylist() for column in strings.columns), strict=True):
            assert row[:2] not in rows, "a snapshot shows a row once"
            rows[row[:2]] = row
    return rows


def truth(snapshot: Snapshot, found: Found, table: str) -> Rows:
    """The whole table under the same snapshot."""
    columns = ", ".join(f'"{column.name}"::text' for column in found.table.columns)
    return {row[:2]: row for row in snapshot.first.execute(f"select {columns} from {table}".encode()).fetchall()}


@pytest.mark.parametrize("pages", [1, 3, 1000])
def test_ranges_of_any_size_give_every_row_once(database: Database, pages: int) -> None:
    database.execute("create table t (id int primary key, part int, note text, big text)")
    database.execute(
        "insert into t select g, g % 3, repeat('n', 50), repeat(md5(g::text), 80) from generate_series(1, 500) g"
    )
    database.execute("create table empty (id int primary key)")
    database.execute("create table parts (id int, part int, primary key (id, part)) partition by list (part)")
    database.execute("create table part_0 (part int not null, id int not null)")  # its columns in another order
    database.execute("alter table parts attach partition part_0 for values in (0)")
    database.execute("create table part_1 partition of parts for values in (1) partition by range (id)")
    database.execute("create table part_1a partition of part_1 for values from (0) to (1000)")
    database.execute(
        "insert into parts select g, g % 2 from generate_series(1, 999) g; delete from parts where id < 300"
    )
    database.execute("create table base (id int primary key); create table child () inherits (base)")
    database.execute("insert into base values (1); insert into child values (2)")
    database.execute("create publication p for table t, empty, base, parts with (publish_via_partition_root)")
    for table, ids in (
        ("t", list(range(1, 501))),
        ("empty", []),
        ("parts", list(range(300, 1000))),
        ("base", [1]),
        ("child", [2]),
    ):
        _, rows = copied(database, table, pages)
        assert sorted(rows.column("id").to_pylist()) == ids, table


def change(database: Database, chance: random.Random) -> None:
    """What moves rows: updates that leave large values alone, key changes, deletes, a vacuum that makes room in early pages."""
    statements, free = [], "not exists (select from t u where {})"
    for _ in range(chance.randint(5, 60)):
        number = chance.randint(1, ROWS)
        statements.append(
            chance.choice(
                [
                    f"update t set note = repeat('m', {chance.randint(1, 400)}) where id = {number}",
                    f"update t set part = 1 - part where id = {number} and {free.format(f'u.id = {number} and u.part <> t.part')}",
                    f"update t set id = -id where id = {number} and {free.format(f'u.id = -{number}')}",
                    f"delete from t where id = {number}",
                    f"insert into t values ({number}, {chance.randint(0, 1)}, 'new', repeat('x', 3000)) on conflict do nothing",
                    f"update t set big = md5('{number}') where id = {number}",
                ]
            )
        )
    database.execute("; ".join(statements))
    if chance.random() < 0.7:
        database.execute("vacuum t")
    if chance.random() < 0.1:
        database.execute("vacuum full t")


@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_that_was_killed_again_and_again_ends_with_every_row_as_its_last_snapshot_shows_it(
    database: Database, seed: int, partitioned: bool
) -> None:
    chance = random.Random(seed)
    key = "primary key (id, part)" if partitioned else "primary key (id)"
    tail = " partition by list (part)" if partitioned else ""
    database.execute(f"create table t (id int, part int, note text, big text, {key}){tail}")
    for part in (0, 1) if partitioned else ():
        database.execute(f"create table t_{part} partition of t for values in ({part})")
    for table in ("t_0", "t_1") if partitioned else ("t",):
        database.execute(f"alter table {table} alter big set storage external")
    database.execute("create publication p for table t with (publish_via_partition_root)")
    database.execute(
        f"insert into t select g, g % 2, repeat('n', 100), repeat(md5(g::text), 90) from generate_series(1, {ROWS}) g"
    )
    landed: Rows = {}
    ranges: tuple[CopiedRange, ...] = ()
    looked_again = 0
    for attempt in range(6):
        with snapshot_of(database) as snapshot:
            found = snapshot.find(TableName("public", "t"), "here")
            assert found is not None
            whole = truth(snapshot, found, "t")
            good = still_good(ranges, found.leaves, snapshot.seen)
            # Rows that are gone by now have their delete in the stream.
            landed, ranges = {row: landed[row] for row in landed if row in whole}, good
            tasks = plan(found.leaves, good, 2)
            allowed = len(tasks) if attempt == 5 else chance.randint(0, len(tasks))
            for task in tasks[:allowed]:
                rows = read(snapshot, found, task)
                landed |= rows
                if task.since is not None:
                    looked_again += len(rows)
                    ranges = seen_again(ranges, task, snapshot.seen)
                else:
                    ranges = merged([*ranges, *task.finished(snapshot.seen, len(rows))])
            if allowed == len(tasks):
                assert landed == whole
        change(database, chance)
    assert allowed == len(tasks)
    assert looked_again


def test_a_table_that_is_not_there_leaves_the_snapshot_to_the_others(database: Database) -> None:
    database.execute("create table t (id int primary key); insert into t values (1)")
    database.execute("create publication p for table t")
    with snapshot_of(database) as snapshot:
        database.execute("insert into t values (2)")
        with pytest.raises(EtlError) as caught:
            snapshot.find(TableName("public", "gone"), "pipeline shop, table public.gone")
        assert caught.value.line == (
            'copy at pipeline shop, table public.gone: relation "public.gone" does not exist'
            " (check that the table exists and may be read)"
        )
        found = snapshot.find(TableName("public", "t"), "here")
        assert found is not None
        second = snapshot.connection([found])
        assert second is not None
        with contextlib.closing(second):
            snapshot.release()
            assert second.execute("select count(*) from t").fetchone() == (1,)
        assert list(read(snapshot, found, plan(found.leaves, (), 1)[0])) == [("1",)]
    assert database.execute("select count(*) from pg_replication_slots where temporary") == [(0,)]


def test_a_row_filter_and_a_changed_shape_are_part_of_what_ranges_count_for(database: Database) -> None:
    database.execute("create table t (id int primary key, n int)")
    database.execute("create publication p for table t where (n > 1)")
    forms = []
    for statement in (
        "select 1",
        "alter publication p set table t where (n > 2)",
        "alter table t add note text",
        "alter publication p set table t (id, note)",
    ):
        database.execute(statement)
        with snapshot_of(database) as snapshot:
            found = snapshot.find(TableName("public", "t"), "here")
            assert found is not None
            forms.append(found.form)
    assert len(set(forms)) == len(forms)


def test_partitions_that_may_not_be_read_by_themselves_are_read_through_their_root(database: Database) -> None:
    database.execute("create table t (id int primary key) partition by range (id)")
    database.execute("create table t_1 partition of t for values from (0) to (10); insert into t values (1), (2)")
    database.execute("create publication p for table t with (publish_via_partition_root)")
    with snapshot_of(database) as snapshot:
        database.execute(f"revoke select on t_1 from {least.source_role(database)['pg_username']}")
        found = snapshot.find(TableName("public", "t"), "here")
        assert found is not None
        (whole,) = plan(found.leaves, (), 1)
        assert whole.end is None
        assert sorted(read(snapshot, found, whole)) == [("1",), ("2",)]


def test_many_tables_are_found_as_each_by_itself(database: Database) -> None:
    database.execute(
        "create table plain (id int primary key, n int); insert into plain values (1, 2);"
        "create table child (more int) inherits (plain); insert into child values (3, 4, 5);"
        "create table root (id int primary key) partition by range (id);"
        "create table root_1 partition of root for values from (0) to (10); insert into root values (1);"
        "create table narrow (id int primary key, a int, hidden text);"
        "create publication p for table only plain, child, root, narrow (id, a) where (a > 1)"
        " with (publish_via_partition_root)"
    )
    names = [TableName("public", name) for name in ("plain", "child", "root", "narrow")]
    with snapshot_of(database) as snapshot:
        together = snapshot.find_all(names)
        assert together == {name: snapshot.find(name, "here") for name in names}
        found = together[names[0]]
        assert found is not None
        assert read(snapshot, found, plan(found.leaves, (), 8)[0]) == {("1", "2"): ("1", "2")}


def test_of_many_tables_those_that_are_not_simple_are_left_to_be_looked_at_one_by_one(database: Database) -> None:
    database.execute("create table t (id int primary key); create table other (id int primary key)")
    database.execute("create publication p for table t")
    here, other, gone = (TableName("public", name) for name in ("t", "other", "gone"))
    with snapshot_of(database) as snapshot:
        assert snapshot.find_all([here, other, gone]).keys() == {here}
        database.execute("create table gone (id int primary key)")  # the snapshot does not show it
        assert snapshot.find_all([here, gone]).keys() == {here}


def test_a_table_that_is_locked_does_not_keep_the_others_waiting(database: Database) -> None:
    database.execute("create table t (id int primary key); create publication p for table t")
    with snapshot_of(database) as snapshot, database.connect() as busy, busy.transaction():
        busy.execute("lock table t")
        assert snapshot.find_all([TableName("public", "t")]) == {}


def lanes_take(connections: list[psycopg.Connection[Any]], found: Found, seconds: float = 20.0) -> int:
    """Read a table by one lane per connection, a page at a time; how many rows came within so long."""
    tasks = [Task(1, found, wanted) for wanted in plan(found.leaves, (), 1)]
    lanes = Lanes(connections, tasks)
    rows, left, deadline = 0, len(tasks), time.monotonic() + seconds
    with contextlib.closing(lanes), selectors.DefaultSelector() as selector:
        selector.register(lanes, selectors.EVENT_READ)
        while left and time.monotonic() < deadline:
            selector.select(0.1)
            lanes.hear()
            while (piece := lanes.take()) is not None:
                left -= piece.rows is None
                rows += piece.rows.rows if isinstance(piece.rows, Converted) else 0
    return rows


@contextlib.contextmanager
def waiting(database: Database, statement: str) -> Iterator[None]:
    """Somebody's statement that waits for a lock when the block begins; it has ended after the block."""

    def work() -> None:
        with database.connect() as connection:
            connection.execute(statement)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for("him to wait", lambda: database.execute("select pid from pg_locks where not granted"))
    try:
        yield
    finally:
        worker.join(20)
        assert not worker.is_alive()


@pytest.mark.parametrize("table", ["plain", "parted"])
@pytest.mark.parametrize("statement", ["truncate {}", "alter table {} add more int"])
def test_who_waits_for_a_table_waits_for_its_copy_and_does_not_stop_it(
    database: Database, table: str, statement: str
) -> None:
    database.execute("create table plain (id int primary key, note text)")
    database.execute("create table parted (id int primary key, note text) partition by range (id)")
    database.execute("create table low partition of parted for values from (1) to (200)")
    database.execute("create table high partition of parted default")
    database.execute("create publication p for all tables with (publish_via_partition_root = true)")
    database.execute(f"insert into {table} select g, repeat('n', 100) from generate_series(1, {ROWS}) g")
    with contextlib.ExitStack() as resources:
        snapshot = resources.enter_context(snapshot_of(database))
        found = snapshot.find(TableName("public", table), "here")
        assert found is not None
        second = snapshot.connection([found])
        assert second is not None
        resources.enter_context(waiting(database, statement.format(table)))
        resources.callback(second.close)
        resources.callback(snapshot.close)
        assert snapshot.connection([found]) is None
        assert lanes_take([snapshot.first, second], found) == ROWS


def test_an_index_may_be_made_anew_between_two_ranges(database: Database) -> None:
    database.execute("create table t (id int primary key, note text); create publication p for table t")
    database.execute(f"insert into t select g, 'n' from generate_series(1, {ROWS}) g")
    with snapshot_of(database) as snapshot:
        found = snapshot.find(TableName("public", "t"), "here")
        assert found is not None
        assert lanes_take([snapshot.first], found) == ROWS
        database.execute("set lock_timeout = '5s'; reindex index t_pkey")
