"""Every kind of table, as the decoder and the catalog see it: identities, column lists, partitions, odd names, wide and large rows."""

from __future__ import annotations

import psycopg
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.table import Table
from tests.support.fix_postgres import Database
from tests.support.streaming import rows_of, streaming
from workers.reader.catalog import published_tables, read_catalog
from workers.reader.relations import table_of


def shapes(database: Database, *publications: str) -> dict[str, Table]:
    """The published tables' shapes as the catalog alone has them."""
    with database.connect() as connection:
        found = {}
        for published in published_tables(connection, list(publications or ("p",)), "source s"):
            facts = read_catalog(connection, published.oid)
            assert facts is not None
            found[published.name.name] = table_of(facts, published.columns)
        return found


def names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def key(table: Table) -> list[str]:
    return [column.name for column in table.key]


def test_a_column_that_is_not_published_is_in_no_shape(database: Database) -> None:
    database.execute("create table t (id int primary key, note text, secret text)")
    database.execute("create publication p for table t (id, note)")
    before = shapes(database)["t"]
    with streaming(database) as decoding:
        database.execute("insert into t values (1, 'n', 'not to be seen')")
        (batch,) = decoding.batches()
    assert names(before) == ["id", "note"]
    assert batch.table == before


def test_generated_columns_are_published_where_the_publication_says_so(database: Database) -> None:
    database.execute("create table t (id int primary key, twice int generated always as (id * 2) stored, v int)")
    database.execute("create publication p for table t")
    database.execute("create publication g for table t with (publish_generated_columns = stored)")
    database.execute("create publication named for table t (id, twice)")
    for publication, expected in (("p", ["id", "v"]), ("g", ["id", "twice", "v"]), ("named", ["id", "twice"])):
        before = shapes(database, publication)["t"]
        with streaming(database, publication, slot=f"slot_{publication}") as decoding:
            database.execute("truncate t; insert into t (id, v) values (3, 4)")
            rows = decoding.batches()
        assert names(before) == expected
        assert rows[0].table == before
        assert rows_of(rows, "t")[-1].get("twice") == (6 if "twice" in expected else None)


def test_publications_with_different_lists_of_one_table_are_refused_with_their_names(database: Database) -> None:
    database.execute("create table t (id int primary key, a text, b text)")
    database.execute("create publication p for table t (id, a)")
    database.execute("create publication q for table t (id, b)")
    with pytest.raises(EtlError) as caught:
        shapes(database, "p", "q")
    assert caught.value.line == (
        "source_setup at source s: table public.t has different column lists in publications p, q"
        " (give it one list in all of them: PostgreSQL does not stream it otherwise)"
    )
