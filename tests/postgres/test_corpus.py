"""Every type with its edge values, copied and streamed: bit-equal to each other, and what psql prints."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from etl_supervisor.ipc.arrow import META_FIELDS
from etl_supervisor.model.types import ValueKind
from tests.support import corpus
from tests.support.copying import copied
from tests.support.fix_postgres import Database
from tests.support.streaming import make_slot, streaming
from workers.reader.catalog import read_catalog
from workers.reader.pgtypes import value_type

META = {field.name for field in META_FIELDS} - {"_etl_special"}


def both_ways(database: Database, family: str) -> dict[str, tuple[pa.Table, pa.Table]]:
    """Table -> its rows as streamed and as copied, without what positions differ in."""
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        tables = corpus.load(database, family)
        batches = decoding.batches()
    found = {}
    for name in tables:
        parts = [item.batch for item in batches if item.table.name.name == name]
        streamed, (_, copy) = pa.Table.from_batches(parts), copied(database, name, text=True)
        found[name] = tuple(rows.drop_columns(sorted(META)).sort_by("id").combine_chunks() for rows in (streamed, copy))
    return found


def bits(rows: pa.Table) -> bytes:
    """The values as bytes: NaN is NaN, -0 is not 0."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches():
            writer.write_batch(batch.take(pa.array(range(batch.num_rows))))
    return sink.getvalue().to_pybytes()


def check(database: Database, family: str) -> None:
    for name, (streamed, copy) in both_ways(database, family).items():
        assert streamed.schema == copy.schema
        for column in streamed.column_names:
            assert bits(streamed.select([column])) == bits(copy.select([column])), f"{name}.{column}"
        columns, expected = corpus.psql_rows(database, name)
        assert columns == [column for column in streamed.column_names if column != "_etl_special"]
        rows = zip(streamed["id"].to_pylist(), streamed["_etl_special"].to_pylist(), strict=True)
        special = {number: json.loads(text) for number, text in rows if text}
        assert sorted(expected) == streamed["id"].to_pylist()
        for number, column, value, kind in corpus.cells(streamed, columns):
            like = expected[number][columns.index(column)]
            if column in special.get(number, {}):
                assert value is None, f"{name}.{column} of {number} is in both places"
                value = special[number][column]
            found = None if value is None else corpus.printed(value, kind, like or "")
            assert found == like, f"{name}.{column} of {number}: {found!r:.200} is not {like!r:.200}"


@pytest.mark.parametrize("family", corpus.families(180_000))
def test_copy_and_stream_are_bit_equal_and_what_psql_prints(database: Database, family: str) -> None:
    check(database, family)


@pytest.mark.parametrize("family", corpus.families(150_000))
def test_an_older_server_says_the_same(old_database: Database, family: str) -> None:
    ((version,),) = old_database.execute("select current_setting('server_version_num')::int")
    if corpus.SERVER_MIN.get(family, 0) > version:
        pytest.skip("this server is too old for the family")
    check(old_database, family)


TEXTS = {"t", "v", "v0", "c", "c1", "n"}  # of the family of texts: their binary form is their text


@pytest.mark.parametrize("family", ["documents", "keys", "made", "moments", "numbers", "texts"])
def test_binary_values_streamed_and_copied_are_bit_equal_to_the_copied_texts(database: Database, family: str) -> None:
    for name in corpus.load(database, family):
        ((oid,),) = database.execute(f"select '{name}'::regclass::oid::bigint")
        with database.connect() as connection:
            found = read_catalog(connection, oid)
        assert found is not None
        typed = [
            column.name
            for column in found.columns
            if value_type(column.base_oid, column.base_typmod).kind is not ValueKind.TEXT
            or (family == "texts" and column.name in TEXTS)
        ]
        columns = ", ".join(typed)
        database.execute(f"create table b_{name} as select {columns} from {name} with no data")
        database.execute(f"create publication p for table b_{name}")
        make_slot(database, f"slot_{name}")
        with streaming(database, slot=f"slot_{name}", binary=True) as decoding:
            database.execute(f"insert into b_{name} select {columns} from {name} order by id")
            rows = pa.Table.from_batches([item.batch for item in decoding.batches()])
        (_, copy), (_, binary) = (copied(database, f"b_{name}", text=text) for text in (True, False))
        for column in [*typed, "_etl_special"]:
            assert bits(rows.select([column])) == bits(copy.select([column])), f"{name}.{column}"
            assert bits(binary.select([column])) == bits(copy.select([column])), f"{name}.{column} of a binary copy"
        database.execute("drop publication p")


def test_a_table_of_one_column_is_not_mistaken_by_csv(database: Database) -> None:
    database.execute("create table alone (t text primary key)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute(
            r"insert into alone values (''), (' '), ('\N'), ('\.'), (e'\n'), (e'\r\n'), (chr(34)), ('null')"
        )
        (batch,) = [item.batch for item in decoding.batches()]
    _, copy = copied(database, "alone")
    assert copy["t"].to_pylist() == batch["t"].to_pylist() == ["", " ", r"\N", r"\.", "\n", "\r\n", '"', "null"]


def test_values_of_twenty_megabytes_are_whole(database: Database) -> None:
    database.execute("create table large (id int primary key, t text, b bytea, j jsonb)")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute(
            "insert into large select n, repeat(e'é\"\n', 5000000), decode(repeat('00ff', 10000000), 'hex'),"
            " jsonb_build_array(repeat('x', 20000000)) from generate_series(1, 2) n"
        )
        batches = [item.batch for item in decoding.batches()]
    streamed, (_, copy) = pa.Table.from_batches(batches), copied(database, "large")
    for column in ("id", "t", "b", "j"):
        assert streamed[column].equals(copy[column])
    assert streamed["t"][1].as_py() == 'é"\n' * 5_000_000
    assert streamed["b"][1].as_py() == b"\x00\xff" * 10_000_000
    assert len(streamed["j"][0].as_py()) == 20_000_004
