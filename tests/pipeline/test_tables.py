"""Every kind of table through the whole pipeline: copied and streamed, then compared row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import sql

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake.identifiers import quoted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def columns_in_snowflake(deploy: Deployment, table: str) -> dict[str, list[str]]:
    """The columns of target and landing table that are not the system's own."""
    there, found = deploy.destination, {}
    with sql_session(there) as session, session.cursor() as cursor:
        for schema, name in ((there.schema, table), (there.landing_schema, f"LANDING_{table}")):
            cursor.execute(f'SELECT * FROM "{there.database}"."{schema}"."{name}"')
            found[name] = [item.name for item in cursor.description if not item.name.startswith("_ETL_")]
    return found


def plain_key(number: int) -> str:
    return str(number)


def long_key(number: int) -> str:
    """A key that PostgreSQL stores out of line."""
    return f"rpad('{number}', 2500, 'k')"


# An out-of-line value that no change below sends again, unless it says so.
BIG = "alter table {t} alter big set storage external"
KINDS: dict[str, tuple[str, Callable[[int], str]]] = {
    "by_default": ("create table {t} (id int primary key, note text, big text)", plain_key),
    "by_index": (
        "create table {t} (pk int generated always as identity primary key, id int not null, note text, big text);"
        " create unique index {t}_id on {t} (id); alter table {t} replica identity using index {t}_id",
        plain_key,
    ),
    "by_pair": (
        "create table {t} (note text, id int, big text, part int default 7, primary key (part, id))",
        plain_key,
    ),
    "full_with_key": (
        "create table {t} (id int primary key, note text, big text); alter table {t} replica identity full",
        plain_key,
    ),
    "with_include": ("create table {t} (id int, note text, big text, primary key (id) include (note))", plain_key),
    "long_key": (
        "create table {t} (id text primary key, note text, big text); alter table {t} alter id set storage external",
        long_key,
    ),
    "base": ("create table {t} (id int primary key, note text, big text)", plain_key),
    "child": ("create table {t} (extra int default 3, primary key (id)) inherits (base)", plain_key),
}


def fill(table: str, first: int, last: int, key: Callable[[int], str]) -> str:
    rows = ", ".join(f"({key(n)}, 'n{n}', repeat('{n:04}', 1000))" for n in range(first, last + 1))
    return f"insert into {table} (id, note, big) values {rows}"


def changes(table: str, key: Callable[[int], str]) -> list[str]:
    """Every kind of change, each string one transaction."""
    only = f"only {table}"
    return [
        fill(table, 31, 35, key),
        f"update {only} set note = 'changed' where id in ({key(1)}, {key(2)}, {key(31)})",
        f"update {only} set id = {key(101)} where id = {key(3)}",
        f"update {only} set note = 'moved, then changed' where id = {key(101)}",
        f"delete from {only} where id in ({key(4)}, {key(32)})",
        f"update {only} set big = null where id = {key(5)}; update {only} set big = '' where id = {key(6)}",
        f"update {only} set id = {key(102)} where id = {key(7)}; update {only} set id = {key(103)} where id = {key(102)};"
        f" update {only} set note = 'twice' where id = {key(103)}",
        f"delete from {only} where id = {key(8)}; {fill(table, 8, 8, key)}",
        f"update {only} set id = {key(104)} where id = {key(9)}; update {only} set id = {key(9)} where id = {key(10)}",
        f"update {only} set note = null where id = {key(11)}; update {only} set note = '' where id = {key(12)}",
    ]


def test_tables_of_every_identity_are_copied_and_followed(deploy: Deployment) -> None:
    for table, (ddl, key) in KINDS.items():
        deploy.source.execute(f"{ddl}; {BIG}".format(t=table))
        deploy.source.execute(fill(table, 1, 30, key))
    deploy.source.execute("create table inserted_only (id int primary key, note text)")
    deploy.source.execute(
        "alter table inserted_only replica identity nothing; insert into inserted_only values (1, 'a')"
    )
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", len(KINDS) + 1)
    for table, (_, key) in KINDS.items():
        for change in changes(table, key):
            deploy.source.execute(change)
    deploy.source.execute("insert into inserted_only values (2, 'b')")
    deploy.caught_up("shop")
    keys = dict.fromkeys(KINDS, ("id",)) | {"by_pair": ("part", "id")}
    # The source's own query of a parent shows its children too: it is compared by itself.
    deploy.source.execute("alter table child no inherit base")
    deploy.same("shop", inserted_only=("id",), **keys)
    deploy.source.execute("truncate by_default, full_with_key")
    deploy.source.execute(fill("by_default", 1, 3, plain_key))
    deploy.caught_up("shop")
    deploy.same("shop", by_default=("id",), full_with_key=("id",))
    assert deploy.stop() == 0


def rows_in(deploy: Deployment, query: str) -> list[tuple[object, ...]]:
    """What Snowflake answers; {s} and {l} stand for target and landing schema."""
    there = deploy.destination
    places = {"s": f'"{there.database}"."{there.schema}"', "l": f'"{there.database}"."{there.landing_schema}"'}
    with sql_session(there) as session, session.cursor() as cursor:
        cursor.execute(query.format(**places))
        return [tuple(row) for row in cursor.fetchall()]


def test_partitions_filters_and_lists_hold_for_copy_and_stream(deploy: Deployment) -> None:
    """Three publications, one of them with a name that needs quotes; one publishes by way of the root."""
    deploy.source.execute(
        """
        create table rooted (id int, region text, note text, primary key (id, region)) partition by list (region);
        create table rooted_eu partition of rooted for values in ('eu');
        create table rooted_us (note text, region text not null, id int not null, dropped int, primary key (id, region));
        alter table rooted_us drop column dropped;
        alter table rooted attach partition rooted_us for values in ('us');
        create table leaves (id int primary key, note text) partition by range (id);
        create table leaves_low partition of leaves for values from (0) to (100);
        create table leaves_high partition of leaves for values from (100) to (1000) partition by range (id);
        create table leaves_higher partition of leaves_high for values from (100) to (1000);
        create table filtered (id int primary key, v int, note text); alter table filtered replica identity full;
        insert into rooted select g, (array['eu', 'us'])[1 + g % 2], 'n' from generate_series(1, 20) g;
        insert into leaves select g * 10, 'n' from generate_series(1, 30) g;
        insert into filtered select g, g, case when g % 5 = 0 then '100% {x} it''s \\' else 'other' end from generate_series(1, 30) g;
        create publication p for table rooted with (publish_via_partition_root);
        create publication "Odd, ""na""me" for table leaves, filtered where (note = '100% {x} it''s \\' and id > 5);
        create publication q for table filtered where (v < 3), leaves_low
        """
    )
    deploy.add("shop", publication_name='p, "Odd, ""na""me",q')
    deploy.start()
    deploy.ready("shop", 4)
    assert sorted(deploy.states("shop")) == ["filtered", "leaves_higher", "leaves_low", "rooted"]
    assert deploy.states("shop")["filtered"].rows_copied == 7
    for change in (
        "update rooted set region = 'us' where id = 2; update rooted set note = 'c' where id < 5",
        "create table rooted_un partition of rooted for values in ('un'); insert into rooted values (30, 'un', 'n')",
        "delete from rooted where id = 7; update rooted set id = 31 where id = 8",
        "update leaves set id = id + 95 where id between 10 and 50; delete from leaves where id in (60, 200)",
        "create table leaves_top partition of leaves for values from (1000) to (2000); insert into leaves values (1500, 't')",
        "update filtered set v = 1 where id = 20; update filtered set v = 100 where id = 1; update filtered set v = -v where id = 2",
        "update filtered set note = 'out' where id = 10; insert into filtered values (40, 40, 'out'), (41, 2, 'in')",
    ):
        deploy.source.execute(change)
    deploy.ready("shop", 5)
    deploy.caught_up("shop")
    deploy.same("shop", rooted=("id", "region"), leaves_low=("id",), leaves_higher=("id",), leaves_top=("id",))
    published = "select id, v, note from filtered where v < 3 or (note = '100% {x} it''s \\' and id > 5) order by id"
    assert rows_in(deploy, "SELECT ID, V, NOTE FROM {s}.FILTERED ORDER BY ID") == deploy.source.execute(published)
    assert deploy.stop() == 0


def test_a_row_that_comes_into_the_filter_without_its_large_values_gets_them_from_the_source(
    deploy: Deployment,
) -> None:
    deploy.source.execute("create table docs (id int primary key, note text, big text)")
    deploy.source.execute("alter table docs alter big set storage external")
    deploy.source.execute(fill("docs", 1, 20, plain_key))
    deploy.source.execute("create publication p for table docs where (id > 10)")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute(
        "update docs set id = id + 100 where id < 3; update docs set note = 'c' where id in (12, 102)"
    )
    wait_for("the line", lambda: '"table_copied_again"' in deploy.log)
    deploy.ready("shop")
    deploy.caught_up("shop")
    query = "select id, note, big from docs where id > 10 order by id"
    assert rows_in(deploy, "SELECT ID, NOTE, BIG FROM {s}.DOCS ORDER BY ID") == deploy.source.execute(query)
    assert deploy.stop() == 0


ODD = [
    'Mixed "Case" Name',
    "a.b",
    "select",
    "ü" * 31,
    "two words",
    "comma,semi;",
    "%s {x} \\n",
    "ends\\",
    "$$",
    "q?h#a&b=c",
    "a/b",
    "100%2F",
    "it's",
    "..",
]


def test_odd_names_of_schemas_tables_and_columns_go_all_the_way(deploy: Deployment) -> None:
    with deploy.source.connect() as connection:
        for odd in ODD:
            name = sql.Identifier(odd)
            connection.execute(sql.SQL("create schema {}").format(name))
            connection.execute(sql.SQL("create table {}.{} (id int primary key, {} text)").format(name, name, name))
            connection.execute(sql.SQL("insert into {}.{} values (1, 'copied'), (2, 'copied')").format(name, name))
        connection.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", len(ODD))
    with deploy.source.connect() as connection:
        for odd in ODD:
            name = sql.Identifier(odd)
            connection.execute(sql.SQL("insert into {}.{} values (3, 'streamed')").format(name, name))
            connection.execute(sql.SQL("update {}.{} set {} = 'changed' where id = 2").format(name, name, name))
    deploy.caught_up("shop")
    for odd in ODD:
        upper = quoted(odd.upper()).replace("{", "{{").replace("}", "}}")
        table = quoted(f"{odd}__{odd}".upper()).replace("{", "{{").replace("}", "}}")
        found = rows_in(deploy, f"SELECT ID, {upper} FROM {{s}}.{table} ORDER BY ID")
        assert found == [(1, "copied"), (2, "changed"), (3, "streamed")], odd
    assert deploy.stop() == 0


def test_names_that_become_one_in_snowflake_are_refused_with_a_clear_line(deploy: Deployment) -> None:
    deploy.source.execute(
        """
        create table items (id int primary key, note text); insert into items values (1, 'mine');
        create publication p for all tables
        """
    )
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute('create table "ITEMS" (id text primary key, other text, note int)')
    deploy.source.execute("""insert into "ITEMS" values ('2', 'theirs', 3)""")
    deploy.source.execute(
        'create table twice (id int primary key, "a" int, "A" int); insert into twice values (1, 2, 3)'
    )
    deploy.source.execute("create table ours (id int primary key, _etl_op text); insert into ours values (1, 'x')")
    deploy.source.execute("insert into items values (2, 'mine too')")

    def stopped() -> dict[str, str]:
        return {line["table"]: line["reason"] for line in deploy.events("table_stopped")}

    wait_for("three lines", lambda: len(stopped()) == 3)
    assert stopped() == {
        "public.ITEMS": "LANDING_ITEMS belongs to table public.items of pipeline shop",
        "public.twice": "columns a and A are both A in Snowflake",
        "public.ours": "column _etl_op begins with _ETL_, which is the system's own",
    }
    wait_for("the second row", lambda: rows_in(deploy, "SELECT ID, NOTE FROM {s}.ITEMS ORDER BY ID")[1:])
    assert rows_in(deploy, "SELECT ID, NOTE FROM {s}.ITEMS ORDER BY ID") == [(1, "mine"), (2, "mine too")]
    assert columns_in_snowflake(deploy, "ITEMS") == {"ITEMS": ["ID", "NOTE"], "LANDING_ITEMS": ["ID", "NOTE"]}


def test_tables_without_a_key_are_landed_completely_and_in_order(deploy: Deployment) -> None:
    deploy.source.execute(
        """
        create table z (); alter table z replica identity full; insert into z default values; insert into z default values;
        create table one (t text); alter table one replica identity full; insert into one values (''), (null), ('\\N'), (' '), ('"');
        create table lots (a int, b text); alter table lots replica identity full; insert into lots values (1, 'x'), (1, 'x');
        create table late (a int primary key deferrable); insert into late values (1);
        create publication p for all tables
        """
    )
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 4)
    for change in (
        "insert into z default values; delete from z; insert into z default values",
        "insert into one values (''), (null), ('\\N'); delete from one where t = ''",
        "update lots set b = 'y' where ctid = (select min(ctid) from lots); insert into lots values (null, null)",
        "truncate lots; insert into lots values (2, '')",
        "insert into late values (2)",
    ):
        deploy.source.execute(change)
    end = deploy.written("shop")
    wait_for("all of it to be confirmed", lambda: deploy.confirmed("shop") >= end)
    order = "ORDER BY _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX"
    ops = [op for (op,) in rows_in(deploy, f"SELECT _ETL_OP FROM {{l}}.LANDING_Z {order}")]
    assert ops == ["R", "R", "I", "D", "D", "D", "I"]
    one = rows_in(deploy, f"SELECT _ETL_OP, T FROM {{l}}.LANDING_ONE {order}")
    copied = [("R", ""), ("R", None), ("R", "\\N"), ("R", " "), ("R", '"')]
    assert one == [*copied, ("I", ""), ("I", None), ("I", "\\N"), ("D", ""), ("D", "")]
    lots = rows_in(deploy, f"SELECT _ETL_OP, A, B FROM {{l}}.LANDING_LOTS {order}")
    update = [("D", 1, "x"), ("I", 1, "y")]
    assert lots == [("R", 1, "x"), ("R", 1, "x"), *update, ("I", None, None), ("T", None, None), ("I", 2, "")]
    assert rows_in(deploy, f"SELECT _ETL_OP, A FROM {{l}}.LANDING_LATE {order}") == [("R", 1), ("I", 2)]
    current = "SELECT A, B FROM {s}.LOTS"
    wait_for("the targets", lambda: rows_in(deploy, current) == [(2, "")])
    wait_for("as many rows", lambda: len(rows_in(deploy, "SELECT * FROM {s}.Z")) == 1)
    wait_for("both rows", lambda: sorted(rows_in(deploy, "SELECT A FROM {s}.LATE")) == [(1,), (2,)])
    assert deploy.stop() == 0


def test_a_table_of_1600_columns_goes_all_the_way(deploy: Deployment) -> None:
    columns = ", ".join(f"c{number} smallint" for number in range(1, 1599))
    deploy.source.execute(f"create table wide (id int primary key, {columns}, c1599 text)")
    deploy.source.execute(
        "insert into wide (id, c1, c1599) select g, 1, repeat('b', 4000) from generate_series(1, 20) g"
    )
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute("insert into wide (id, c2, c1599) values (21, 2, repeat('c', 4000))")
    deploy.source.execute(
        "update wide set c1 = 3 where id < 5; delete from wide where id = 6; update wide set id = 30 where id = 7"
    )
    deploy.caught_up("shop")
    deploy.same("shop", wide=("id",))
    assert deploy.stop() == 0


def test_a_column_that_is_not_published_never_reaches_snowflake(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text, secret text)")
    deploy.source.execute("insert into items select g, 'n', 'not to be seen' from generate_series(1, 5) g")
    deploy.source.execute("create publication p for table items (id, note)")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute("insert into items values (100, 'later', 'not to be seen')")
    deploy.caught_up("shop")
    assert columns_in_snowflake(deploy, "ITEMS") == {"ITEMS": ["ID", "NOTE"], "LANDING_ITEMS": ["ID", "NOTE"]}
    deploy.source.execute("alter table items drop column secret")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
