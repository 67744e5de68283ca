"""What the publications publish is what PostgreSQL's own view tells, and nobody who has a table locked is waited for."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg
import pytest

from etl_supervisor.errors import EtlError
from tests.support import least
from tests.support.fix_postgres import Database
from workers.reader import published
from workers.reader.catalog import read_catalogs
from workers.reader.published import published_tables, row_filters

TABLES = """
create table plain (id int primary key, note text, gone int, secret text); alter table plain drop gone;
create unlogged table unlogged (id int primary key);
create table made (id int primary key, twice int generated always as (id * 2) stored);
create schema other;
create table other.here (id int primary key, note text);
create table parted (id int, at int, note text, primary key (id, at)) partition by range (id);
create table low partition of parted for values from (0) to (10);
create table other.high partition of parted for values from (10) to (20);
create table mid partition of parted for values from (20) to (30) partition by range (at);
create table mid_low partition of mid for values from (0) to (10);
create table base (id int primary key); create table child () inherits (base);
"""
PUBLICATIONS = (
    "for all tables",
    "for all tables with (publish_via_partition_root = true)",
    "for table plain, made, base, parted",
    "for table only base, parted, mid with (publish_via_partition_root = true)",
    "for table low, other.high, mid",
    "for table mid_low, other.here with (publish_via_partition_root = true)",
)
LISTS = (
    "for table plain (id, secret), made",
    "for table plain where (id > 3), parted, low (id, at) where (id > 5), other.here (id) where (note is null)",
    "for table plain where (secret = 'x' or id = 7)",
    "for tables in schema other",
    "for tables in schema public with (publish_via_partition_root = true)",
    "for tables in schema other, table plain, other.here",
    "for table parted (id, at) where (id < 9) with (publish_via_partition_root = true)",
)
GENERATED = (
    "for table made with (publish_generated_columns = stored)",
    "for table made (twice) with (publish_generated_columns = none)",
    "for all tables with (publish_generated_columns = stored)",
)


def told(connection: psycopg.Connection[Any], publications: list[str]) -> tuple[object, object]:
    """Tables (or why they can't be published together) and row filters, of all at once and of each table alone."""
    oids = [
        oid
        for (oid,) in connection.execute(
            "select oid::bigint from pg_class where oid >= 16384 and relkind in ('r', 'p')"
        )
    ]
    tables: list[object] = []
    for oid in (None, *oids):
        try:
            tables.append(published_tables(connection, publications, "here", oid))
        except EtlError as error:
            tables.append(error.line)
    there = [table.oid for table in tables[0]] if isinstance(tables[0], list) else []
    return tables, row_filters(connection, publications, there)


def test_it_is_what_the_view_of_the_server_tells(each_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database = each_database
    database.execute(TABLES)
    with least.connect(database) as connection:
        version = connection.info.server_version
        made = [*PUBLICATIONS]
        made += LISTS if version >= published.COLUMN_LISTS else ()
        made += GENERATED if version >= published.GENERATED_COLUMNS else ()
        for number, text in enumerate(made):
            database.execute(f"create publication p{number} {text}")
        filtered = False
        names = [f"p{number}" for number in range(len(made))]
        for chosen in [*itertools.combinations(names, 1), *itertools.combinations(names, 2), names[:4]]:
            ours = told(connection, list(chosen))
            filtered |= bool(ours[1])
            if version >= published.COLUMN_LISTS:
                with monkeypatch.context() as patch:
                    patch.setattr(published, "UNKNOWN", 0)
                    assert ours == told(connection, list(chosen)), [made[int(name[1:])] for name in chosen]
        assert filtered == (version >= published.COLUMN_LISTS)


def test_nobody_who_has_a_table_locked_is_waited_for(database: Database) -> None:
    database.execute(TABLES)
    database.execute("create publication p for all tables with (publish_via_partition_root = true)")
    with database.connect() as busy, busy.transaction(), least.connect(database) as connection:
        busy.execute("lock table plain, parted, other.here in access exclusive mode")
        connection.execute("set lock_timeout = '2s'")
        tables = published_tables(connection, ["p"], "here")
        assert {table.name.name for table in tables} == {"plain", "made", "here", "parted", "base", "child"}
        assert read_catalogs(connection, [table.oid for table in tables]).keys() == {table.oid for table in tables}
        assert row_filters(connection, ["p"], [table.oid for table in tables]) == {}
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("select from pg_publication_tables")
