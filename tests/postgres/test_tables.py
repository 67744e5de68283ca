"""Every kind of table, as the decoder and the catalog see it: identities, column lists, partitions, odd names, wide and large rows."""

from __future__ import annotations

import psycopg
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.table import Table, TableName
from tests.support import least
from tests.support.fix_postgres import Database
from tests.support.streaming import make_slot, rows_of, streaming
from workers.reader.catalog import read_catalog
from workers.reader.published import published_tables
from workers.reader.relations import table_of
from workers.reader.snapshot import leaves_of


@pytest.fixture(params=["database", "old_database"], ids=["newest", "old"])
def database(request: pytest.FixtureRequest) -> Database:
    """Everything here holds for a server of an older version too."""
    found: Database = request.getfixturevalue(request.param)
    return found


def shapes(database: Database, *publications: str) -> dict[str, Table]:
    """The published tables' shapes as the catalog alone has them."""
    with least.connect(database) as connection:
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


def test_generated_columns_are_published_where_the_publication_says_so(second_database: Database) -> None:
    database = second_database  # of the newest version
    database.execute("create table t (id int primary key, twice int generated always as (id * 2) stored, v int)")
    database.execute("create publication p for table t")
    database.execute("create publication g for table t with (publish_generated_columns = stored)")
    database.execute("create publication named for table t (id, twice)")
    for publication, expected in (("p", ["id", "v"]), ("g", ["id", "twice", "v"]), ("named", ["id", "twice"])):
        before = shapes(database, publication)["t"]
        make_slot(database, f"{database.name}_{publication}")
        with streaming(database, publication, slot=f"{database.name}_{publication}") as decoding:
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


# -- identities


IDENTITIES = [
    ("create table t (a int primary key, b text not null unique, c text)", ["a"]),
    ("create table t (a int, b text not null, c text, primary key (a) include (b))", ["a"]),
    (
        "create table t (a int primary key, b text not null, c text); create unique index i on t (b, a) include (c);"
        " alter table t alter c set not null; alter table t replica identity using index i",
        ["a", "b"],
    ),
    ("create table t (a int primary key, b text, c text); alter table t replica identity full", ["a"]),
    ("create table t (a int primary key, b text, c text); alter table t replica identity nothing", ["a"]),
    ("create table t (a int primary key deferrable initially deferred, b text, c text)", []),
    (
        "create table t (a int primary key deferrable, b text, c text); alter table t replica identity full",
        [],
    ),
    ("create table t (a int, b text, c text); alter table t replica identity full", []),
    ("create table t (a int, b text, c text); alter table t replica identity nothing", []),
    ("create table t (a int, b text, c text)", []),
]


@pytest.mark.parametrize(("ddl", "expected"), IDENTITIES)
def test_the_key_is_what_every_update_and_delete_brings(database: Database, ddl: str, expected: list[str]) -> None:
    database.execute(ddl)
    database.execute("create publication p for all tables")
    before = shapes(database)["t"]
    with streaming(database) as decoding:
        database.execute("insert into t values (1, 'b', 'c')")
        (batch,) = decoding.batches()
    assert key(before) == expected
    assert batch.table == before


def test_a_column_list_without_the_whole_key_leaves_the_table_without_a_key(database: Database) -> None:
    database.execute("create table t (a int, b int, c text, primary key (a, b))")
    database.execute("create publication p for table t (a, c) with (publish = 'insert')")
    before = shapes(database)["t"]
    with streaming(database) as decoding:
        database.execute("insert into t values (1, 2, 'c')")
        (batch,) = decoding.batches()
    assert (names(before), key(before)) == (["a", "c"], [])
    assert batch.table == before


def test_a_key_out_of_line_stays_the_key(database: Database) -> None:
    """PostgreSQL sends the old key when it is out of line, and leaves it out of the new row when it did not change."""
    database.execute("create table t (k text primary key, note text)")
    database.execute("alter table t alter k set storage external")
    database.execute("insert into t values (repeat('k', 2500), 'x')")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("update t set note = 'y'")
        database.execute("update t set k = repeat('z', 2500)")
        database.execute("delete from t")
        rows = rows_of(decoding.batches(), "t")
    old, new = "k" * 2500, "z" * 2500
    assert [(row["_etl_op"], row["k"], row["note"]) for row in rows] == [
        ("U", old, "y"),
        ("D", old, None),
        ("I", new, "y"),
        ("D", new, None),
    ]
    assert {row["_etl_unchanged"] for row in rows} == {None}


@pytest.mark.parametrize("identity", ["default", "full", "using index i"])
def test_a_key_change_deletes_the_old_key_then_inserts_the_new_row(database: Database, identity: str) -> None:
    database.execute("create table t (k int primary key, j int not null, big text)")
    database.execute(f"create unique index i on t (j); alter table t replica identity {identity}")
    database.execute("alter table t alter big set storage external")
    database.execute("insert into t values (1, 1, repeat('b', 5000))")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("update t set k = 2, j = 2")
        rows = rows_of(decoding.batches(), "t")
    assert [row["_etl_op"] for row in rows] == ["D", "I"]
    assert rows[1]["_etl_index"] == rows[0]["_etl_index"] + 1
    assert (rows[1]["k"], rows[1]["j"]) == (2, 2)
    name = "j" if "index" in identity else "k"
    assert rows[0][name] == 1
    assert rows[1]["_etl_old_key"] == f'{{"{name}":"1"}}'
    assert rows[1]["_etl_unchanged"] == (None if identity == "full" else '["big"]')


@pytest.mark.parametrize("identity", ["default", "nothing"])
def test_changes_that_could_not_be_identified_are_refused_by_postgresql_itself(
    database: Database, identity: str
) -> None:
    database.execute(f"create table t (a int); alter table t replica identity {identity}; insert into t values (1)")
    database.execute("create publication p for all tables")
    for change in ("update t set a = 2", "delete from t"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            database.execute(change)


def test_a_table_without_a_key_brings_whole_rows(database: Database) -> None:
    database.execute("create table t (a int, b text); alter table t replica identity full")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("insert into t values (1, 'x'), (1, 'x'), (null, null)")
        database.execute("update t set b = 'y' where a = 1")
        database.execute("delete from t where a is null")
        rows = rows_of(decoding.batches(), "t")
    found = [(row["_etl_op"], row["a"], row["b"]) for row in rows]
    updated = [("D", 1, "x"), ("I", 1, "y")]
    assert found == [("I", 1, "x"), ("I", 1, "x"), ("I", None, None), *updated, *updated, ("D", None, None)]
    assert [row["_etl_old_key"] for row in rows] == [None, None, None, None, "{}", None, "{}", None]


# -- partitions and inheritance


PARTITIONED = """
create table parts (id int, region text, note text, primary key (id, region)) partition by list (region);
create table parts_eu partition of parts for values in ('eu');
create table parts_us (note text, region text not null, id int not null, primary key (id, region));
alter table parts attach partition parts_us for values in ('us');
insert into parts values (1, 'eu', 'a'), (2, 'us', 'b')
"""


def test_partitions_are_tables_of_their_own_without_publish_via_partition_root(database: Database) -> None:
    database.execute(PARTITIONED)
    database.execute("create publication p for table parts")
    assert sorted(shapes(database)) == ["parts_eu", "parts_us"]
    assert names(shapes(database)["parts_us"]) == ["note", "region", "id"]
    with streaming(database) as decoding:
        database.execute("update parts set region = 'us' where id = 1")
        batches = decoding.batches()
    assert [(r["_etl_op"], r["id"]) for r in rows_of(batches, "parts_eu")] == [("D", 1)]
    assert [(r["_etl_op"], r["id"], r["note"]) for r in rows_of(batches, "parts_us")] == [("I", 1, "a")]


def test_partitions_are_one_table_with_publish_via_partition_root(database: Database) -> None:
    database.execute(PARTITIONED)
    database.execute("create publication p for table parts with (publish_via_partition_root)")
    before = shapes(database)
    with streaming(database) as decoding:
        database.execute("update parts set region = 'us' where id = 1")
        database.execute("create table parts_un partition of parts for values in ('un')")
        database.execute("insert into parts values (3, 'un', 'c')")
        database.execute("delete from parts where id = 2")
        batches = decoding.batches()
    assert {item.table.name.name for item in batches} == set(before) == {"parts"}
    assert batches[0].table == before["parts"]
    assert [(r["_etl_op"], r["id"], r["region"], r["note"]) for r in rows_of(batches, "parts")] == [
        ("D", 1, "eu", None),
        ("I", 1, "us", "a"),
        ("I", 3, "un", "c"),
        ("D", 2, "us", None),
    ]


def test_a_partition_that_is_published_twice_is_published_as_its_root(database: Database) -> None:
    database.execute(PARTITIONED)
    database.execute("create publication p for table parts with (publish_via_partition_root)")
    database.execute("create publication q for table parts_eu, parts_us")
    assert list(shapes(database, "p", "q")) == ["parts"]
    with streaming(database, "p,q") as decoding:
        database.execute("insert into parts values (3, 'eu', 'c')")
        assert {item.table.name.name for item in decoding.batches()} == {"parts"}


def test_a_partition_whose_identity_is_not_its_roots_leaves_the_root_without_a_key(database: Database) -> None:
    """Its updates and deletes bring the partition's identity, in which the root's key is missing."""
    database.execute(PARTITIONED)
    database.execute("create unique index i on parts_us (note); alter table parts_us alter note set not null")
    database.execute("alter table parts_us replica identity using index i")
    database.execute("create publication p for table parts with (publish_via_partition_root)")
    before = shapes(database)["parts"]
    assert key(before) == []
    with streaming(database) as decoding:
        database.execute("delete from parts where id = 2")
        (batch,) = decoding.batches()
    assert batch.table == before
    assert [(r["_etl_op"], r["id"], r["note"]) for r in rows_of([batch], "parts")] == [("D", None, "b")]


def test_inherited_tables_are_each_themselves(database: Database) -> None:
    database.execute("create table base (id int primary key, note text)")
    database.execute("create table child (extra int, primary key (id)) inherits (base)")
    database.execute("create publication p for table base")
    assert {name: names(table) for name, table in shapes(database).items()} == {
        "base": ["id", "note"],
        "child": ["id", "note", "extra"],
    }
    with streaming(database) as decoding:
        database.execute("insert into base values (1, 'a'); insert into child values (1, 'b', 2)")
        database.execute("update base set note = 'c'")
        batches = decoding.batches()
    assert [(r["_etl_op"], r["note"]) for r in rows_of(batches, "base")] == [("I", "a"), ("U", "c")]
    assert [(r["_etl_op"], r["note"], r["extra"]) for r in rows_of(batches, "child")] == [("I", "b", 2), ("U", "c", 2)]


# -- filters


def test_a_row_that_moves_into_or_out_of_the_filter_is_inserted_or_deleted(database: Database) -> None:
    database.execute("create table t (id int primary key, v int); alter table t replica identity full")
    database.execute("create publication p for table t where (v > 10)")
    database.execute("create publication q for table t where (v < 0)")
    with streaming(database, "p,q") as decoding:
        database.execute("insert into t values (1, 5), (2, 20), (3, -1)")
        database.execute(
            "update t set v = 11 where id = 1; update t set v = 5 where id = 2; update t set v = 12 where id = 3"
        )
        rows = rows_of(decoding.batches(), "t")
    found = [(row["_etl_op"], row["id"], row["v"]) for row in rows]
    assert found == [("I", 2, 20), ("I", 3, -1), ("I", 1, 11), ("D", 2, None), ("U", 3, 12)]


@pytest.mark.parametrize("identity", ["default", "full"])
def test_a_row_that_moves_into_the_filter_may_leave_out_what_was_never_sent(database: Database, identity: str) -> None:
    """PostgreSQL makes an insert of the update; without REPLICA IDENTITY FULL its large values are in no message at all."""
    database.execute("create table t (id int primary key, big text); alter table t alter big set storage external")
    database.execute(f"alter table t replica identity {identity}; insert into t values (1, repeat('b', 5000))")
    database.execute("create publication p for table t where (id > 10)")
    with streaming(database) as decoding:
        database.execute("update t set id = 11")
        database.execute("update t set id = 12")
        (batch,) = decoding.batches()
    row, *moved = rows_of([batch], "t")
    assert [each["_etl_op"] for each in moved] == ["D", "I"]
    assert batch.incomplete_at == (None if identity == "full" else row["_etl_commit_lsn"])
    assert (row["_etl_op"], row["id"], row["_etl_old_key"]) == ("I", 11, None)
    assert (row["big"], row["_etl_unchanged"]) == (("b" * 5000, None) if identity == "full" else (None, '["big"]'))


# -- names, widths, sizes


def test_odd_names_of_schemas_tables_and_columns_arrive_as_they_are(database: Database) -> None:
    odd = ['Mixed "Case" Name', "a.b", "select", "ü" * 31, "with space", "comma,quote'", "%s {x} \\n"]
    for schema in odd:
        quoted = '"' + schema.replace('"', '""') + '"'
        with database.connect() as connection:
            connection.execute(f"create schema {quoted}".encode())
            connection.execute(f"create table {quoted}.{quoted} (id int primary key, {quoted} text)".encode())
    database.execute("create publication p for all tables")
    before = shapes(database)
    with streaming(database) as decoding:
        for schema in odd:
            quoted = '"' + schema.replace('"', '""') + '"'
            with database.connect() as connection:
                connection.execute(f"insert into {quoted}.{quoted} values (1, 'x')".encode())
        batches = decoding.batches()
    assert {item.table.name.name: item.table for item in batches} == before
    assert all(item.table.name.schema == item.table.name.name in odd for item in batches)
    assert all(item.batch.to_pylist()[0][item.table.name.name] == "x" for item in batches)


def test_a_publication_may_have_any_name(database: Database) -> None:
    database.execute("create table t (id int primary key)")
    database.execute("""create publication "Odd, it's ""quoted"" é" for table t""")
    source = '"Odd, it\'s ""quoted"" é"'
    with streaming(database, source) as decoding:
        database.execute("insert into t values (1)")
        assert len(rows_of(decoding.batches(), "t")) == 1


def test_a_table_of_1600_columns_is_decoded(database: Database) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1, 1600))
    database.execute(f"create table wide (c0 int primary key, {columns})")
    database.execute("create publication p for all tables")
    assert len(shapes(database)["wide"].columns) == 1600
    with streaming(database) as decoding:
        database.execute("insert into wide (c0, c1599) select g, -g from generate_series(1, 500) g")
        database.execute("update wide set c800 = c0")
        rows = rows_of(decoding.batches(), "wide")
    assert len(rows) == 1000
    assert (rows[999]["c0"], rows[999]["c800"], rows[999]["c1599"], rows[999]["c1"]) == (500, 500, -500, None)


def test_a_table_without_columns_has_rows_all_the_same(database: Database) -> None:
    database.execute("create table z (); alter table z replica identity full")
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        database.execute("insert into z default values; insert into z default values; delete from z; truncate z")
        rows = rows_of(decoding.batches(), "z")
    assert [row["_etl_op"] for row in rows] == ["I", "I", "D", "D", "T"]


# -- copies


@pytest.mark.parametrize(
    ("rewrite", "seen"),
    [
        ("truncate leaf", True),
        ("vacuum full leaf", True),
        ("truncate plain", False),
        ("insert into leaf values (2)", False),
    ],
)
def test_a_copy_notices_that_a_partition_was_rewritten_after_its_snapshot(
    database: Database, rewrite: str, seen: bool
) -> None:
    database.execute("create table root (id int primary key) partition by range (id); create table plain (id int)")
    database.execute("create table leaf partition of root for values from (0) to (10); insert into root values (1)")
    with least.connect(database) as reader:
        reader.execute("begin isolation level repeatable read read only")
        ((oid,),) = reader.execute("select 'root'::regclass::oid::bigint")  # the snapshot is taken, nothing is locked
        database.execute(rewrite)
        assert (leaves_of(reader, oid, TableName("public", "root")) is None) == seen


def test_comments_come_with_the_shape_and_are_no_part_of_it(database: Database) -> None:
    database.execute("create table t (id int primary key, note text); create publication p for table t")
    before = shapes(database)["t"]
    database.execute("comment on table t is 'what it is'; comment on column t.note is 'what is noted'")
    after = shapes(database)["t"]
    assert after == before
    assert (before.comment, after.comment) == ("", "what it is")
    assert [column.comment for column in after.columns] == ["", "what is noted"]
    with streaming(database) as decoding:
        database.execute("insert into t values (1, 'n')")
        (batch,) = decoding.batches()
    assert batch.table.columns[1].comment == "what is noted"
