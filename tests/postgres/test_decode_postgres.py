"""What the decoder makes of a real PostgreSQL's stream, against what psql says of the same rows."""

import datetime as dt
import json
import math
from decimal import Decimal

import pytest

from etl_supervisor.model.table import TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_postgres import Database
from tests.support.streaming import rows_of, streaming
from workers.reader.catalog import read_catalog
from workers.reader.frame import Chunk
from workers.reader.published import published_tables
from workers.reader.relations import table_of

TYPED = """
create table typed (
    id bigint primary key, b boolean, s smallint, i integer, o oid, f real, d double precision, n numeric(12,2), u numeric,
    t text, v varchar(20), bin bytea, day date, ts timestamp, tz timestamptz, uid uuid, j json, jb jsonb, arr integer[]
)"""
VALUES = """
insert into typed values
 (1, true, -32768, 2147483647, 4294967295, 0.1, 1e-300, -0.05, 123456789012345678901234567890.123, e'quote" back\\\\slash\\nline\\ttab é 中',
  '', '\\x00ff10', '2024-02-29', '2024-01-31 10:00:00.123456', '2024-01-31 10:00:00.5+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  e'{"a": 1,\\n "b": [1,2]}', '{"x": 12345678901234567890.5}', '{1,2,null}'),
 (2, false, 0, 0, 0, 'NaN', '-Infinity', 'NaN', 'Infinity', null, null, '\\x', 'infinity', '-infinity', '0044-03-15 12:00:00 BC', null,
  null, 'null', '{}'),
 (3, null, null, null, null, null, null, null, null, null, null, null, '10000-01-01', null, null, null, null, null, null),
 (9223372036854775807, null, null, null, null, 'Infinity', 1.7976931348623157e308, 9999999999.99, 'NaN', '\\N', 'a,b', null, '0001-01-01',
  '9999-12-31 23:59:59.999999', '0001-01-01 00:00:00+00', null, null, '"text"', null)
"""


@pytest.fixture
def database(each_database: Database) -> Database:
    """Every test of this file runs against every version there is."""
    return each_database


@pytest.fixture
def typed(database: Database) -> Database:
    database.execute(TYPED)
    database.execute("create publication p for all tables")
    return database


def test_every_typed_kind_arrives_with_its_value(typed: Database) -> None:
    with streaming(typed) as decoding:
        typed.execute(VALUES)
        batches = decoding.batches()
    first, second, third, last = rows_of(batches, "typed")
    assert first["_etl_op"] == "I"
    assert (first["b"], first["s"], first["i"], first["o"]) == (True, -32768, 2147483647, 4294967295)
    assert math.isclose(first["f"], 0.1, rel_tol=1e-6)
    assert (first["d"], first["n"], first["u"]) == (1e-300, Decimal("-0.05"), "123456789012345678901234567890.123")
    assert first["t"] == 'quote" back\\slash\nline\ttab é 中'
    assert (first["v"], first["bin"], first["day"]) == ("", b"\x00\xff\x10", dt.date(2024, 2, 29))
    assert str(first["ts"]) == "2024-01-31 10:00:00.123456"
    assert first["tz"] == dt.datetime(2024, 1, 31, 8, 0, 0, 500000, dt.UTC)
    assert first["uid"] == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert (json.loads(first["j"]), first["jb"]) == ({"a": 1, "b": [1, 2]}, '{"x": 12345678901234567890.5}')
    assert (first["arr"], first["_etl_special"], first["_etl_unchanged"]) == ("{1,2,NULL}", None, None)
    assert math.isnan(second["f"])
    assert (second["d"], second["n"], second["u"]) == (-math.inf, None, "Infinity")
    assert (second["t"], second["bin"], second["day"], second["jb"]) == (None, b"", None, None)
    assert json.loads(second["_etl_special"]) == {
        "n": "NaN",
        "day": "infinity",
        "ts": "-infinity",
        "tz": "0044-03-15 12:00:00+00 BC",
        "jb": "null",
    }
    assert json.loads(third["_etl_special"]) == {"day": "10000-01-01"}
    assert (last["id"], last["t"], last["v"], last["n"]) == (2**63 - 1, "\\N", "a,b", Decimal("9999999999.99"))
    assert str(last["ts"]) == "9999-12-31 23:59:59.999999"
    assert last["_etl_special"] is None


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
def test_positions_do_not_depend_on_how_batches_are_cut(database: Database, cut: int) -> None:
    database.execute("create table t (id int primary key, big text)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        with (
            database.connect() as connection,
            connection.cursor() as cursor,
            cursor.copy("copy t (id) from stdin") as copy,
        ):
            for number in range(10):
                copy.write_row([number])
        database.execute("update t set id = id + 100 where id < 3")
        database.execute("delete from t where id = 9")
        database.execute("truncate t")
        rows = rows_of(decoding.batches(cut), "t")
    positions = [(row["_etl_commit_lsn"], row["_etl_lsn"], row["_etl_index"]) for row in rows]
    assert positions == sorted(set(positions))
    assert [row["_etl_op"] for row in rows] == ["I"] * 10 + ["D", "I"] * 3 + ["D", "T"]
    assert [index for _, _, index in positions[:10]] == [2 * number for number in range(10)]
    assert [index for _, _, index in positions[10:16]] == [0, 1, 0, 1, 0, 1]
    moved = rows[11]
    assert (moved["id"], json.loads(moved["_etl_old_key"])) == (100, {"id": "0"})
    assert (rows[10]["id"], rows[10]["_etl_old_key"]) == (0, None)


def test_unchanged_toast_is_named_and_never_nulled(database: Database) -> None:
    database.execute("create table t (id int primary key, a text, big text, other text)")
    database.execute("alter table t alter big set storage external, alter other set storage external")
    database.execute("insert into t values (1, 'x', repeat('b', 5000), repeat('o', 5000))")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("update t set a = 'y'")
        database.execute("update t set big = repeat('c', 5000)")
        database.execute("update t set id = 2")
        database.execute("update t set big = null, other = null")
        rows = rows_of(decoding.batches(), "t")
    assert [row["_etl_op"] for row in rows] == ["U", "U", "D", "I", "U"]
    assert [row["_etl_unchanged"] for row in rows] == ['["big","other"]', '["other"]', None, '["big","other"]', None]
    assert rows[1]["big"] == "c" * 5000
    assert rows[4]["big"] is None


def test_replica_identity_full_compares_keys_and_fills_toast(database: Database) -> None:
    database.execute("create table t (id int primary key, a text, big text)")
    database.execute("alter table t replica identity full, alter big set storage external")
    database.execute("insert into t values (1, 'x', repeat('b', 5000)), (2, null, null)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("update t set a = 'y'")
        database.execute("update t set id = 7 where id = 1")
        database.execute("delete from t where id = 7")
        rows = rows_of(decoding.batches(), "t")
    assert [row["_etl_op"] for row in rows] == ["U", "U", "D", "I", "D"]
    assert rows[0]["big"] == rows[3]["big"] == "b" * 5000
    assert {row["_etl_unchanged"] for row in rows} == {None}
    assert (rows[4]["id"], rows[4]["big"]) == (7, None)


def test_a_shape_changed_between_two_changes_splits_the_rows(database: Database) -> None:
    database.execute("create table t (id int primary key)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        with database.connect(autocommit=False) as connection:
            connection.execute("insert into t values (1)")
            connection.execute("alter table t add column price numeric(10,2) default 1.5")
            connection.execute("insert into t values (2, 2.5)")
        batches = decoding.batches()
    assert [item.table.version for item in batches] == [0, 1]
    assert [item.batch.num_rows for item in batches] == [1, 1]
    added = batches[1].table.columns[1]
    assert (added.name, added.type, added.default) == ("price", ValueType(ValueKind.NUMERIC, 10, 2), "1.50")


def test_the_catalog_alone_gives_the_shape_that_the_relation_message_gives(typed: Database) -> None:
    typed.execute("create domain money2 as numeric(9,3) not null")
    typed.execute('create table "Odd ""Name" (k1 int, k2 text, m money2, primary key (k2, k1))')
    with typed.connect() as connection:
        shapes = [
            table_of(read_catalog(connection, published.oid), published.columns)
            for published in published_tables(connection, ["p"], "source s")
        ]
    assert [shape.name for shape in shapes] == [TableName("public", 'Odd "Name'), TableName("public", "typed")]
    with streaming(typed) as decoding:
        typed.execute('insert into "Odd ""Name" values (1, \'a\', 1.5)')
        typed.execute(VALUES)
        batches = decoding.batches()
    assert [item.table for item in batches] == shapes
    assert [column.key for column in shapes[0].columns] == [True, True, False]
    assert shapes[0].columns[2].type == ValueType(ValueKind.NUMERIC, 9, 3)


def test_several_tables_and_transactions_keep_their_own_order(database: Database) -> None:
    database.execute("create table a (id int primary key); create table b (id int primary key)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        for number in range(20):
            database.execute(f"insert into {'ab'[number % 2]} values ({number})")
        with database.connect(autocommit=False) as connection:
            for number in range(20, 40):
                connection.execute(f"insert into {'ab'[number % 2]} values ({number})")
        database.execute("truncate a, b")
        frames = decoding.frames()
        decoded = decoding.decoder.decode([Chunk.of(frames)])
    empty = database.server.version.startswith("14.")  # it sends transactions without rows too, such as the end's
    assert decoded.commits == 22 + empty
    assert decoded.rows == 42
    assert decoded.end_lsn
    for table, parity in (("a", 0), ("b", 1)):
        rows = rows_of(decoded.segments, table)
        assert [row["id"] for row in rows] == [*range(parity, 40, 2), None]
        assert rows[-1]["_etl_op"] == "T"
