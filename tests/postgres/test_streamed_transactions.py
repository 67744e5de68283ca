"""Transactions that PostgreSQL streams before their commit (protocol 2) arrive as plain ones: same rows, same positions, same order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import psycopg
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model import lsn
from tests.support.fix_postgres import Database
from tests.support.streaming import Decoding, make_slot, source_of, streaming
from workers.reader.frame import KIND, Chunk
from workers.reader.transfer import Manner

LITTLE_MEMORY = "64kB"  # the least that PostgreSQL takes; more than that of changes is streamed


@pytest.fixture
def eager(database: Database) -> Database:
    """A database whose walsenders stream early."""
    database.execute(f"alter database {database.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")
    database.execute(
        "create table t (id int primary key, note text); create table other (id int primary key, note text)"
    )
    database.execute("create publication p for all tables")
    return database


def both(database: Database, work: object, cut: int = 0) -> tuple[list[tuple], list[tuple], list[str]]:
    """The rows of `work` as plain and as streamed transactions, and the kinds of the streamed frames."""
    slots = [f"slot_{database.name}_{kind}" for kind in ("plain", "pieces")]
    for slot in slots:
        make_slot(database, slot)
    work(database)  # type: ignore[operator]
    with streaming(database, slot=slots[0]) as plain, streaming(database, slot=slots[1], in_progress=True) as pieces:
        frames = pieces.frames()
        return rows(plain, plain.frames(), cut), rows(pieces, frames, cut), [chr(frame[KIND]) for frame in frames]


def rows(decoding: Decoding, frames: list[bytes], cut: int) -> list[tuple]:
    found = []
    for at in range(0, len(frames), cut or len(frames)):
        parts = list(decoding.assembler.take(Chunk.of(frames[at : at + (cut or len(frames))])))
        for item in decoding.decoder.decode(parts).segments:
            found += [(str(item.table.name), *row.values()) for row in item.batch.to_pylist()]
    return sorted(found, key=lambda row: row[2:5])


def large(database: Database) -> None:
    database.execute("insert into t select g, repeat('x', 100) from generate_series(1, 5000) g")


def with_savepoints(database: Database) -> None:
    """Sub-transactions that are kept, rolled back, and nested in one that is rolled back."""
    with database.connect(autocommit=False) as connection:
        for number in range(10):
            low = number * 1000
            connection.execute(f"insert into t select g, repeat('y', 50) from generate_series({low}, {low + 899}) g")
            with connection.transaction():
                connection.execute(
                    f"insert into t select g, repeat('n', 50) from generate_series({low + 900}, {low + 950}) g"
                )
                with connection.transaction():
                    connection.execute(f"update t set note = 'gone' where id < {low + 500}")
                raise psycopg.Rollback
            with connection.transaction():
                connection.execute(f"delete from t where id between {low} and {low + 9}")
                connection.execute(f"update t set id = id + 100000 where id between {low + 10} and {low + 19}")


def interleaved(database: Database) -> None:
    """Two large transactions at a time, one that is rolled back, and small ones between their pieces."""
    first, second, lost = (database.connect(autocommit=False) for _ in range(3))
    for number in range(20):
        for place, connection in enumerate((first, second, lost)):
            low = place * 100_000 + number * 500
            connection.execute(f"insert into t select g, repeat('z', 80) from generate_series({low}, {low + 499}) g")
        database.execute(f"insert into other values ({number}, 'small')")
    second.commit()
    lost.rollback()
    database.execute("truncate other")
    first.commit()
    for connection in (first, second, lost):
        connection.close()


def reshaped(database: Database) -> None:
    """A shape that changes inside."""
    with database.connect(autocommit=False) as connection:
        connection.execute("insert into t select g, repeat('a', 100) from generate_series(1, 4000) g")
        connection.execute("alter table t add column price numeric(10,2) default 1.5")
        connection.execute("insert into t select g, repeat('d', 100), g from generate_series(10000, 12000) g")


@pytest.mark.parametrize("work", [large, with_savepoints, interleaved, reshaped])
@pytest.mark.parametrize("cut", [0, 999])
def test_rows_and_positions_do_not_depend_on_streaming(eager: Database, work: object, cut: int) -> None:
    plain, streamed, kinds = both(eager, work, cut)
    assert kinds.count("S") == kinds.count("E") > 3
    assert streamed == plain
    assert len(plain) > 4000
    assert not {row for row in plain if row[-1] == "gone"}


def test_an_aborted_transaction_leaves_nothing(eager: Database) -> None:
    def work(database: Database) -> None:
        with database.connect(autocommit=False) as connection:
            connection.execute("insert into t select g, repeat('x', 100) from generate_series(1, 5000) g")
            database.execute("insert into other values (1, 'meanwhile')")
            connection.rollback()

    plain, streamed, kinds = both(eager, work)
    assert [row[0] for row in plain] == ["public.other"]
    assert streamed == plain
    assert "S" not in kinds or "A" in kinds


def test_what_the_server_can_not_stream_is_read_whole(eager: Database) -> None:
    """A shape that a rolled back sub-transaction made: PostgreSQL 15 to 18 fail to decode it before the commit."""
    slots = [f"slot_{eager.name}_{kind}" for kind in ("plain", "pieces")]
    for slot in slots:
        make_slot(eager, slot)
    with eager.connect(autocommit=False) as connection:
        connection.execute("insert into t select g, repeat('a', 100) from generate_series(1, 2000) g")
        with connection.transaction():
            connection.execute("alter table t add column never int default 7")
            connection.execute("insert into t select g, 'b', 1 from generate_series(3000, 5000) g")
            raise psycopg.Rollback
        connection.execute("insert into t select g, repeat('c', 100) from generate_series(6000, 8000) g")
        connection.execute("alter table t add column price numeric(10,2) default 1.5")
        connection.execute("insert into t select g, repeat('d', 100), g from generate_series(10000, 12000) g")
    with streaming(eager, slot=slots[0]) as plain:
        assert len(rows(plain, plain.frames(), 0)) == 6002
    source, _ = source_of(eager)
    with (
        streaming(eager, slot=slots[1], in_progress=True) as pieces,
        pytest.raises(EtlError, match="can't decode") as failed,
    ):
        pieces.frames()
    assert Manner().after(failed.value, source) == Manner(in_progress=False)
    with pytest.raises(EtlError, match="can't decode its WAL"):
        Manner(in_progress=False).after(failed.value, source)


def test_a_prepared_transaction_arrives_at_its_commit(eager: Database) -> None:
    with streaming(eager, in_progress=True) as decoding:
        with eager.connect(autocommit=False) as connection:
            connection.execute("insert into t select g, repeat('x', 100) from generate_series(1, 3000) g")
            connection.execute("prepare transaction 'later'")
        eager.execute("insert into other values (1, 'before it')")
        first = rows(decoding, decoding.frames(), 0)
        assert [row[0] for row in first] == ["public.other"]
        eager.execute("commit prepared 'later'")
        then = rows(decoding, decoding.frames(), 0)
        assert len(then) == 3000
        assert then[0][2] > first[0][2]


def test_an_older_server_streams_too(old_database: Database) -> None:
    old_database.execute(f"alter database {old_database.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")
    old_database.execute("create table t (id int primary key, note text); create publication p for all tables")
    plain, streamed, kinds = both(old_database, large)
    assert "S" in kinds
    assert streamed == plain


def test_transactions_in_progress_do_not_hold_back_what_may_be_confirmed(eager: Database) -> None:
    """A position told after a piece is not behind the commit of the piece's transaction, so it may be confirmed."""
    with streaming(eager, in_progress=True) as decoding, eager.connect(autocommit=False) as connection:
        connection.execute("insert into t select g, repeat('x', 100) from generate_series(1, 5000) g")
        eager.execute("insert into other values (1, 'x')")
        frames = decoding.frames()
        assert "S" in {chr(frame[KIND]) for frame in frames}
        told = decoding.stream.wal_end
        connection.commit()
        found = rows(decoding, frames + decoding.frames(), 0)
    assert [row[2] >= told for row in found if row[0] == "public.t"] == [True] * 5000


MEASURED = """
import sys, orjson
from scripts.bench_reader import measure
import os
run = measure(os.environ["DSN"], sys.argv[1], int(sys.argv[2]), "text", True)
sys.stdout.buffer.write(orjson.dumps([run.rows, run.rss_mb, run.pieces]))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_million_rows_in_one_transaction_pass_in_bounded_memory(database: Database) -> None:
    database.execute("create table t (id int primary key, note text); create table marker (id int primary key)")
    database.execute("create publication p for all tables")
    make_slot(database, "two_million")
    database.execute("insert into t select g, 'row ' || g from generate_series(1, 2000000) g")
    ((end,),) = database.execute("select pg_current_wal_insert_lsn()::text")
    database.execute("insert into marker values (1), (2)")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "two_million", str(lsn.parse(end))],
        env={"DSN": database.dsn, "PATH": "", "PYTHONPATH": ":".join(path for path in sys.path if path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    count, rss_mb, pieces = orjson.loads(done.stdout)
    assert count >= 2_000_000
    assert pieces > 1
    assert rss_mb < 300
