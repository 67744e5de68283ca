"""Binary values give bit for bit what text gives; which streams are read in binary, and what happens when a type comes that can't be."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Transfer
from tests.support import corpus, least
from tests.support.copying import copied
from tests.support.fix_postgres import Database
from tests.support.streaming import make_slot, rows_of, source_of, streaming
from workers.reader.batch import TableBatch
from workers.reader.catalog import read_catalog
from workers.reader.published import published_tables
from workers.reader.relations import table_of
from workers.reader.transfer import BinaryForms, TextNeededError, choose


def readable(database: Database, table: str) -> list[str]:
    """The columns that can be read in binary."""
    with least.connect(database) as connection:
        ((oid,),) = database.execute("select %s::regclass::oid::bigint", f'public."{table}"')
        found = read_catalog(connection, oid)
        assert found is not None
        shape, forms = table_of(found, [column.name for column in found.columns]), BinaryForms(connection)
        return [
            c.name for c, s in zip(found.columns, shape.columns, strict=True) if forms.reads(c.type_oid, c.typmod, s)
        ]


def bits(batches: list[TableBatch], table: str) -> list[bytes]:
    """Every column of a table's rows as bytes, positions too."""
    rows = pa.Table.from_batches([item.batch for item in batches if item.table.name.name == table])
    found = []
    for name in rows.column_names:
        sink, column = pa.BufferOutputStream(), rows.select([name]).combine_chunks()
        with pa.ipc.new_stream(sink, column.schema) as writer:
            writer.write_table(column.take(pa.array(range(column.num_rows))))
        found.append(name.encode() + sink.getvalue().to_pybytes())
    return found


@pytest.mark.parametrize("family", corpus.families(180_000))
def test_binary_and_text_are_bit_equal(database: Database, family: str) -> None:
    tables = corpus.load(database, family)
    columns = {table: ", ".join(f'"{name}"' for name in readable(database, table)) for table in tables}
    for table in tables:
        database.execute(f'create table "b_{table}" as select {columns[table]} from "{table}" where false')
        database.execute(f'alter table "b_{table}" add primary key (id)')
    wanted = ", ".join(f'"b_{table}"' for table in tables)
    database.execute(f"create publication p for table {wanted}")
    with (
        streaming(database, slot=_slot(database, "text")) as text,
        streaming(database, slot=_slot(database, "bin"), binary=True) as binary,
    ):
        for table in tables:
            database.execute(f'insert into "b_{table}" select {columns[table]} from "{table}"')
            copy = copied(database, f"b_{table}")[1]
            database.execute(f'update "b_{table}" set id = id + 1000 where id % 3 = 0')
            database.execute(f'alter table "b_{table}" replica identity full')
            database.execute(f'update "b_{table}" set id = id + 2000 where id % 5 = 0')
            database.execute(f'delete from "b_{table}" where id % 2 = 0')
            assert copy.num_rows > 0
        in_text, in_binary = text.batches(), binary.batches(cut=100)
    for table in tables:
        assert bits(in_text, f"b_{table}") == bits(in_binary, f"b_{table}"), table


def _slot(database: Database, kind: str) -> str:
    name = f"slot_{database.name}_{kind}"
    make_slot(database, name)
    return name


def test_most_columns_of_ordinary_tables_are_read_in_binary(database: Database) -> None:
    database.execute(
        "create domain price as numeric(12,2); create domain price2 as price; create type mood as enum ('ok', 'so so')"
    )
    database.execute(
        "create table t (id bigint primary key, a price2, b mood, c varchar(9), d char(3), e jsonb, f json, g name, h oid)"
    )
    assert len(readable(database, "t")) == 9


def test_a_stream_is_binary_when_every_column_can_be_read(database: Database) -> None:
    database.execute("create table t (id bigint primary key, a numeric(12,2))")
    database.execute("create publication p for all tables")
    source, _ = source_of(database)

    def chosen(transfer: Transfer) -> bool:
        with least.connect(database) as connection:
            tables = [
                (found, table_of(found, published.columns))
                for published in published_tables(connection, ["p"], "here")
                if (found := read_catalog(connection, published.oid)) is not None
            ]
            return choose(replace(source, transfer=transfer), BinaryForms(connection), tables)

    assert chosen(Transfer.AUTO)
    assert chosen(Transfer.BINARY)
    assert not chosen(Transfer.TEXT)
    database.execute("alter table t add column path point")
    assert not chosen(Transfer.AUTO)
    with pytest.raises(
        EtlError, match=r"transfer is binary, but table public\.t, column path is of a type .*set transfer = 'auto'"
    ):
        chosen(Transfer.BINARY)


def test_a_type_that_comes_later_asks_for_text(database: Database) -> None:
    database.execute("create table t (id bigint primary key)")
    database.execute("create publication p for all tables")
    with streaming(database, binary=True) as decoding:
        database.execute("insert into t values (1)")
        assert [row["id"] for row in rows_of(decoding.batches(), "t")] == [1]
        database.execute("alter table t add column span interval")
        database.execute("insert into t values (2, '1 day')")
        with pytest.raises(TextNeededError, match=r"table public\.t, column span"):
            decoding.batches()
