"""Every kind of table through the whole pipeline: copied and streamed, then compared row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.fix_deployment import Deployment
from tests.support.fix_local_snowflake import sql_session

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
