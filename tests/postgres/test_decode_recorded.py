"""Streams of real servers, recorded and decoded by both decoders: text and binary, whole transactions and pieces."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.fix_postgres import Database
from tests.support.pgoutput_comparison import Rows, assembler, columnar, decoder, plain
from tests.support.pgoutput_reference import Options, reference
from tests.support.streaming import make_slot, streaming

TABLES = """
create table plain (id int primary key, name text, big text);
create table whole (k1 int, k2 text, big text, primary key (k2, k1));
create table typed (
    id bigint primary key, b boolean, s smallint, o oid, f real, d double precision, n numeric(12,2), bin bytea, day date,
    ts timestamp, tz timestamptz, uid uuid, jb jsonb
);
create table bare (note text);
create table parts (id int primary key, x text) partition by range (id);
create table parts_1 partition of parts for values from (0) to (1000);
alter table plain alter big set storage external;
alter table whole alter big set storage external, replica identity full;
alter table bare replica identity full;
create publication p for all tables;
"""
TYPED = """
insert into typed values
 (1, true, -32768, 4294967295, 0.1, 1e-300, -0.05, '\\x00ff10', '2024-02-29', '2024-01-31 10:00:00.123456',
  '2024-01-31 10:00:00.5+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"x": 12345678901234567890.5}'),
 (2, false, 0, 0, 'NaN', '-Infinity', 'NaN', '\\x', 'infinity', '-infinity', '0044-03-15 12:00:00 BC', null, 'null'),
 (3, null, null, null, null, null, 9999999999.99, null, '10000-01-01', '9999-12-31 23:59:59.999999', '0001-01-01 00:00:00+00', null, '"é"')
"""
SUBTRANSACTIONS = """
begin;
insert into plain select i, repeat('x', 200), null from generate_series(10, 400) i;
savepoint a;
insert into plain select i, repeat('y', 200), null from generate_series(1000, 1300) i;
insert into bare values ('rolled back');
rollback to a;
insert into plain select i, repeat('z', 200), null from generate_series(2000, 2300) i;
savepoint b;
alter table plain add column price numeric(10,2) default 1.5;
insert into plain values (5000, 'n', 'b', 2.5);
rollback to b;
insert into plain values (6000, 'after', null);
alter table plain add column price numeric(10,2) default 1.5;
insert into plain values (7000, 'n', 'b', 2.5);
release a;
commit;
begin;
insert into plain select i, repeat('never', 100), null from generate_series(20000, 20300) i;
rollback;
"""
SMALL = """
insert into plain values (1, 'a', repeat('b', 5000)), (2, null, null);
update plain set name = 'c' where id = 1;
update plain set id = 3 where id = 1;
insert into whole values (1, 'k', repeat('b', 5000)), (2, 'l', null);
update whole set big = null where k1 = 2;
update whole set k1 = 7 where k1 = 1;
insert into bare values ('one'), (null);
update bare set note = 'two' where note = 'one';
delete from bare; delete from whole; delete from plain where id = 3;
insert into parts values (5, 'part');
truncate plain, whole;
"""


@pytest.fixture(params=["newest", "old"])
def server(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue("database" if request.param == "newest" else "old_database")
    found.execute(TABLES)
    found.execute(f"alter database {found.name} set logical_decoding_work_mem = '64kB'")
    return found


def keys_of(database: Database) -> dict[int, frozenset[str]]:
    """The primary keys of tables whose Relation messages flag every column."""
    rows = database.execute(
        "select c.oid::bigint, coalesce(array_agg(a.attname::text) filter (where i.indrelid is not null), '{}') from pg_class c"
        " left join pg_index i on i.indrelid = c.oid and i.indisprimary"
        " left join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey) where c.relreplident = 'f' group by 1"
    )
    return {oid: frozenset(names) for oid, names in rows}


def both(frames: list[bytes], keys: dict[int, frozenset[str]], cuts: list[int]) -> Rows:
    """The rows, when both decoders agree."""
    expected = plain(reference(frames, Options(keys, binary=True)))
    with contextlib.closing(assembler(memory_max=10_000)) as pieces:
        assert columnar(frames, cuts, decoder(keys), pieces) == expected
    return expected


def test_a_recorded_stream_cut_everywhere_gives_the_rows_of_the_plain_decoder(server: Database) -> None:
    with streaming(server) as decoding:
        server.execute(SMALL)
        frames, keys = decoding.frames(), keys_of(server)
    ops = [row["op"] for rows in both(frames, keys, list(range(len(frames)))).tables.values() for row in rows]
    assert set(ops) == {*"IUDT"}
    for cut in range(len(frames)):
        both(frames, keys, [cut])


def test_text_and_binary_plain_and_streamed_are_the_same_rows(server: Database) -> None:
    found = []
    with contextlib.ExitStack() as stack:
        ways = [(binary, in_progress) for binary in (False, True) for in_progress in (False, True)]
        slots = [f"slot_{server.name}_{number}" for number in range(len(ways))]
        for slot in slots:
            make_slot(server, slot)
        recordings = [
            stack.enter_context(streaming(server, slot=slot, binary=binary, in_progress=in_progress))
            for slot, (binary, in_progress) in zip(slots, ways, strict=True)
        ]
        server.execute(TYPED)
        server.execute(SMALL)
        with server.connect() as one, server.connect() as other:
            other.execute("begin")
            other.execute("insert into parts select i, repeat('other', 50) from generate_series(100, 400) i")
            for statement in filter(str.strip, SUBTRANSACTIONS.split(";")):
                if "commit" in statement:
                    other.execute("insert into parts select i, repeat('other', 50) from generate_series(500, 900) i")
                one.execute(statement.encode())
            other.execute("commit")
        keys = keys_of(server)
        for recording, (_, in_progress) in zip(recordings, ways, strict=True):
            frames = recording.frames()
            kinds = {frame[25] for frame in frames}
            assert (set(b"SEcA") <= kinds) == in_progress
            found.append(both(frames, keys, list(range(0, len(frames), 7))))
    assert sum(map(len, found[0].tables.values())) > 1_000  # of every table
    assert all(rows.tables == found[0].tables for rows in found)
