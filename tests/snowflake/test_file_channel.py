"""A file channel on a real connector and the real snowflake-ingest: fencing, files that are planned and not there, files that can't be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from snowflake.connector import DictCursor

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.ipc.messages import OpenTable, Segment
from etl_supervisor.model.pipeline import Destination, Load, LoadPath
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake import ddl
from workers.snowflake.files import FileChannel
from workers.snowflake.identifiers import objects_of
from workers.snowflake.inquiry import Inquiries
from workers.snowflake.ledger import Ledger
from workers.snowflake.limits import Limits
from workers.snowflake.loading import Loading, Tools
from workers.snowflake.sessions import Sessions
from workers.snowflake.stage import Stage

TABLE = Table(
    TableName("a schema", "it's a table"),
    1,
    (Column("k", ValueType(ValueKind.INT32), key=True), Column('the "note"', ValueType(ValueKind.TEXT))),
)
TOOLS = Tools(Sessions(lambda _: "", Path(), "test"), Inquiries(lambda _: "", Path()), lambda _: "", Path(), 1)
Run = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=[LoadPath.COPY, LoadPath.SNOWPIPE])
def opening(destination: Destination, request: pytest.FixtureRequest) -> OpenTable:
    load = Load(request.param)
    made = OpenTable(1, 1, "pipe", "sys/slot", 1, 100, "etl-p1-g00000064-0", destination, TABLE, "", load=load)
    with sql_session(destination) as session:
        ddl.ensure(session, made)
    return made


def batch(first: int, last: int, table: Table = TABLE) -> pa.RecordBatch:
    rows = [
        {"_etl_op": "I", "_etl_commit_lsn": n, "_etl_lsn": n, "_etl_index": 0, "k": n, 'the "note"': f"n{n}"}
        for n in range(first, last + 1)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=change_log_schema(table))


def token(number: int) -> str:
    return Position(100, number, number, 0).token


def append(channel: FileChannel, first: int, last: int, table: Table = TABLE) -> str | None:
    channel.append(
        channel.encode(batch(first, last, table), table, 100, ""), last - first + 1, token(first), token(last)
    )
    return channel.seal(lambda: True, token(last))


def loaded(channel: FileChannel, last: int) -> None:
    wait_for("the files to be loaded", lambda: channel.status().committed == token(last), 20)


def landed(opening: OpenTable) -> list[int]:
    objects = objects_of(opening.destination, TABLE)
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        return [int(row[0]) for row in cursor.execute(f"SELECT K FROM {objects.landing_sql} ORDER BY 1").fetchall()]


def staged(opening: OpenTable) -> set[str]:
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        return Stage(opening).names(cursor)


def test_rows_come_through_and_nothing_is_left(opening: OpenTable) -> None:
    channel = FileChannel(opening, TOOLS)
    assert append(channel, 1, 10) == token(10)
    assert append(channel, 11, 15) == token(15)
    loaded(channel, 15)
    assert landed(opening) == list(range(1, 16))
    assert staged(opening) == set()
    again = FileChannel(opening, TOOLS)
    assert (again.opened.committed, again.opened.handed, again.opened.errors) == (token(15), token(15), 0)
    again.close(flush=False, drop=True)
    assert FileChannel(opening, TOOLS).opened.committed is None


def test_an_open_fences_the_older_owner(opening: OpenTable) -> None:
    older = FileChannel(opening, TOOLS)
    assert append(older, 1, 3) == token(3)
    newer = FileChannel(opening, TOOLS)
    assert newer.opened.handed == token(3)
    with pytest.raises(EtlError, match="the channel was opened by another"):
        append(older, 4, 6)
    assert append(newer, 4, 6) == token(6)
    loaded(newer, 6)
    assert landed(opening) == [1, 2, 3, 4, 5, 6]


def test_what_an_older_owner_plans_until_it_is_fenced_is_known_to_the_newer(opening: OpenTable) -> None:
    older = FileChannel(opening, TOOLS)
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        known = Ledger(opening).read(cursor)
    assert append(older, 1, 3) == token(3)
    newer = FileChannel(opening, TOOLS, known=known)
    assert newer.opened.handed == token(3)
    loaded(newer, 3)
    assert landed(opening) == [1, 2, 3]


def test_a_life_that_is_over_leaves_nothing(opening: OpenTable) -> None:
    channel = FileChannel(opening, TOOLS)
    channel.append(channel.encode(batch(1, 3), TABLE, 100, ""), 3, token(1), token(3))
    assert channel.seal(lambda: False, token(3)) is None
    assert staged(opening) == set()
    assert FileChannel(opening, TOOLS).opened.handed is None


def test_a_planned_file_is_made_again_of_the_same_rows_however_they_are_cut(opening: OpenTable) -> None:
    older = FileChannel(opening, TOOLS)
    append(older, 1, 3)
    append(older, 4, 9)
    (name,) = (name for name in staged(opening) if token(4) in name)
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        books = Ledger(opening).read(cursor)
        assert books is not None
        Stage(opening).remove(cursor, name)  # as if it had never come there
    newer = FileChannel(replace(opening, load=Load(LoadPath.COPY)), TOOLS)
    assert newer.opened.handed == token(3)
    assert append(newer, 4, 6) is None, "not all rows have come yet"
    for first, last in ((4, 7), (8, 12)):
        newer.append(newer.encode(batch(first, last), TABLE, 100, ""), last - first + 1, token(first), token(last))
    assert newer.seal(lambda: True, token(12)) == token(12)
    assert name in staged(opening)
    if opening.load.path is LoadPath.COPY:  # a pipe ignores a name that it has seen: there the file had been loaded
        loaded(newer, 12)
        assert landed(opening) == list(range(1, 13))


def test_a_rehearsal_leaves_nothing(opening: OpenTable) -> None:
    channel = FileChannel(opening, TOOLS)
    channel.rehearse(channel.encode(batch(1, 5), TABLE, 100, ""), lambda: True)
    objects = objects_of(opening.destination, TABLE)
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        assert cursor.execute(f"LIST @{objects.stage_sql}").fetchall() == []
        books = Ledger(opening).read(cursor)
    assert books is not None
    assert (books.files, books.committed) == ((), "")
    assert append(channel, 1, 5) == token(5)
    loaded(channel, 5)
    assert landed(opening) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("dead", [{5}, {4, 9}, {4, 5, 6, 7, 8, 9}], ids=["one", "first and last", "all"])
def test_a_planned_file_is_made_again_without_the_rows_that_are_dead_by_then(
    opening: OpenTable, dead: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = FileChannel(opening, TOOLS)
    append(older, 1, 3)

    def breaks(_: Stage, __: Any, path: Path) -> None:
        raise ConnectionError(path.name)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "put", breaks)  # dead between its plan and its upload
        with pytest.raises(ConnectionError) as planned:
            append(older, 4, 9)
    newer = FileChannel(opening, TOOLS)
    assert not newer.whole
    alive = [n for n in range(4, 10) if n not in dead]
    for number in alive:
        rows = newer.encode(batch(number, number), TABLE, 100, "")
        newer.append(rows, 1, token(number), token(number))
    assert newer.seal(lambda: True, token(9)) == token(9)
    assert (str(planned.value) in staged(opening)) is bool(alive)
    assert append(newer, 10, 12) == token(12)
    loaded(newer, 12)
    assert landed(opening) == [1, 2, 3, *alive, 10, 11, 12]
    assert newer.status().errors == 0, "nothing was refused"


def test_what_stands_before_a_file_that_is_made_again_is_through(
    opening: OpenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of an older shape, which holds up the rows that the file is made of: all would wait for one another."""
    older = FileChannel(opening, TOOLS)
    append(older, 1, 3)
    loaded(older, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append(older, 4, 9)
    newer = FileChannel(opening, TOOLS)
    loading = Loading(opening, Limits(), TOOLS, lambda: True)

    def taken(*spans: tuple[int, int]) -> list[str]:
        segments = [
            (Segment(1, seq, 0, 1, 1, last - first + 1, token(first), token(last), 1), batch(first, last))
            for seq, (first, last) in enumerate(spans, 1)
        ]
        known = newer.opened.handed or ""
        return [handed for handed, _ in loading.append(newer, segments, known, known).handed]

    assert taken((1, 2), (3, 3)) == [token(3)] * 2
    assert taken((3, 3), (4, 6), (7, 8)) == [token(3)], "not all rows of the file have come yet"
    assert taken((4, 6), (7, 11)) == [token(6), token(11)]
    loaded(newer, 11)
    assert landed(opening) == list(range(1, 12))


def wider(opening: OpenTable) -> OpenTable:
    """The same table with one more column; a first copy has altered the landing table already."""
    columns = (*TABLE.columns, Column("more", ValueType(ValueKind.TEXT)))
    made = replace(opening, table=replace(TABLE, columns=columns, version=2), since=token(3))
    with sql_session(opening.destination) as session:
        return replace(made, table=ddl.ensure(session, made).table)


def test_a_file_under_way_is_loaded_once_whatever_shape_the_table_has_now(opening: OpenTable) -> None:
    dead = FileChannel(opening, TOOLS)
    assert append(dead, 1, 3) == token(3)  # and it dies, before it hears what became of the file
    if opening.load.path is LoadPath.SNOWPIPE:
        wait_for("the pipe", lambda: landed(opening) == [1, 2, 3], 20)
    now = wider(opening)
    assert Stage(now).pipe != Stage(opening).pipe
    channel = FileChannel(now, TOOLS)
    assert channel.opened.committed is None
    assert append(channel, 4, 5, now.table) == token(5)
    loaded(channel, 5)
    assert landed(opening) == [1, 2, 3, 4, 5]
    assert staged(opening) == set()


def test_an_owner_that_wakes_late_loads_nothing_again(opening: OpenTable) -> None:
    sleeper = FileChannel(opening, TOOLS)
    sleeper.append(sleeper.encode(batch(1, 3), TABLE, 100, ""), 3, token(1), token(3))
    heir: list[FileChannel] = []

    def alive() -> bool:  # it has looked, and sleeps until another has done its work
        heir.append(FileChannel(opening, TOOLS))
        append(heir[0], 1, 3)
        loaded(heir[0], 3)
        return True

    with pytest.raises(EtlError, match="the channel was opened by another"):
        sleeper.seal(alive, token(3))
    assert landed(opening) == [1, 2, 3]


def test_one_that_slept_between_plan_and_upload_loads_nothing_again(
    opening: OpenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, put = FileChannel(opening, TOOLS), Stage.put
    heir: list[FileChannel] = []

    def late(self: Stage, cursor: Any, path: Path) -> None:
        if not heir:
            heir.append(FileChannel(opening, TOOLS))
            for first, last in ((1, 2), (3, 3)):  # in other pieces, so the file has another content
                heir[0].append(batch(first, last), last - first + 1, token(first), token(last))
            assert heir[0].seal(lambda: True, token(3)) == token(3)
            loaded(heir[0], 3)
        put(self, cursor, path)

    monkeypatch.setattr(Stage, "put", late)
    append(sleeper, 1, 3)
    assert landed(opening) == [1, 2, 3]
    if opening.load.path is LoadPath.COPY:
        with pytest.raises(EtlError, match="the channel was opened by another"):
            sleeper.status()
    assert landed(opening) == [1, 2, 3]


def pipes(opening: OpenTable) -> list[str]:
    there = opening.destination
    with sql_session(there) as session, session.cursor(DictCursor) as cursor:
        cursor.execute(f'SHOW PIPES IN SCHEMA "{there.database}"."{there.landing_schema}"')
        return sorted(row["name"] for row in cursor.fetchall())


def test_pipes_stay_for_their_generation(opening: OpenTable) -> None:
    if opening.load.path is LoadPath.COPY:
        FileChannel(opening, TOOLS)
        with sql_session(opening.destination) as session, session.cursor() as cursor:
            books = Ledger(opening).read(cursor)
        assert books is not None
        assert books.pipes == ()
        return
    FileChannel(opening, TOOLS)
    now = wider(opening)
    channel = FileChannel(now, TOOLS)
    assert pipes(opening) == sorted([Stage(opening).pipe, Stage(now).pipe])
    append(channel, 1, 2, now.table)
    loaded(channel, 2)
    later = replace(now, generation=101, channel="etl-p1-g00000065-0")
    FileChannel(later, TOOLS)
    assert pipes(opening) == [Stage(later).pipe]


def test_a_file_that_can_not_be_read_is_made_again(opening: OpenTable, tmp_path: Path) -> None:
    channel = FileChannel(opening, TOOLS)
    with sql_session(opening.destination) as session, session.cursor() as cursor:
        stage = Stage(opening)
        names = [f"{token(first)}_{token(last)}_0.parquet" for first, last in ((1, 3), (4, 6))]
        (tmp_path / names[0]).write_bytes(b"no Parquet")
        stage.put(cursor, tmp_path / names[0])  # OVERWRITE = FALSE: ours stays out
        append(channel, 1, 3)
        append(channel, 4, 6)
        with pytest.raises(EtlError, match="a file can't be loaded"):
            wait_for("trouble", lambda: channel.status().committed, 20)
        assert landed(opening) in ([], [4, 5, 6])
        again = FileChannel(opening, TOOLS)
        assert again.opened.handed is None
        assert append(again, 1, 6) == token(6)
        loaded(again, 6)
        assert landed(opening) == [1, 2, 3, 4, 5, 6]
