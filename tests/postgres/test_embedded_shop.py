"""The demo's sources: made once, the same each time, and a workload that counts exactly what PostgreSQL streams."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from etl_supervisor.embedded.shop import (
    INVENTORY_PUBLICATION,
    SHOP_PUBLICATION,
    create_inventory,
    create_shop,
    transactions,
    trickle,
    workload,
)
from etl_supervisor.errors import EtlError
from tests.support.fix_postgres import Database

TABLES = ("customers", "products", "orders", "order_items", "carts")
ROW_CHANGES = "IUD"


def rows_in(database: Database, *tables: str) -> int:
    return sum(database.execute(f"select count(*) from {table}")[0][0] for table in tables)


def watch(database: Database, publication: str) -> None:
    """Keep every change from here on in a slot."""
    database.execute(f"select pg_create_logical_replication_slot('watch_{publication}', 'pgoutput')")


def seen(database: Database, publication: str) -> Counter[str]:
    """How many pgoutput messages of each kind the slot has, by their first byte."""
    rows = database.execute(
        "select chr(get_byte(data, 0)), count(*) from pg_logical_slot_peek_binary_changes("
        f"'watch_{publication}', null, null, 'proto_version', '1', 'publication_names', '{publication}') group by 1"
    )
    return Counter(dict(rows))


def contents(database: Database) -> dict[str, str]:
    """A digest of each table, computed by PostgreSQL."""
    return {
        table: database.psql(f"select md5(string_agg(t::text, '|' order by t::text)) from {table} t")
        for table in TABLES
    }


def test_the_shop_has_as_many_rows_as_asked_for_and_is_made_once(database: Database) -> None:
    assert create_shop(database.dsn, rows=5_000) == 5_000
    assert create_shop(database.dsn, rows=5_000) == 0
    assert rows_in(database, *TABLES) == 5_000
    assert database.execute("select pubname, puballtables from pg_publication") == [(SHOP_PUBLICATION, True)]


def test_some_texts_are_stored_outside_their_row(database: Database) -> None:
    create_shop(database.dsn, rows=5_000)
    for table in ("customers", "products"):
        [(size,)] = database.execute(f"select pg_relation_size(reltoastrelid) from pg_class where relname = '{table}'")
        assert size > 0


def test_too_few_rows_are_refused(database: Database) -> None:
    with pytest.raises(EtlError, match="config at demo shop: 99 rows are too few"):
        create_shop(database.dsn, rows=99)


def test_the_workload_streams_exactly_the_changes_it_counts(database: Database) -> None:
    create_shop(database.dsn, rows=5_000)
    watch(database, SHOP_PUBLICATION)
    assert workload(database.dsn, changes=4_000, seed=7) == 4_000
    kinds = seen(database, SHOP_PUBLICATION)
    assert sum(kinds[kind] for kind in ROW_CHANGES) == 4_000
    assert all(kinds[kind] > 100 for kind in ROW_CHANGES)
    assert kinds["T"] == 1
    assert rows_in(database, "carts") > 0


def test_the_workload_changes_keys_and_leaves_long_texts_unsent(database: Database) -> None:
    create_shop(database.dsn, rows=5_000)
    watch(database, SHOP_PUBLICATION)
    workload(database.dsn, changes=4_000, seed=7)
    [(key_changes, unsent)] = database.execute(
        "select count(*) filter (where get_byte(data, 5) = ascii('K')),"
        " count(*) filter (where get_byte(data, octet_length(data) - 1) = ascii('u'))"  # the texts are last columns
        " from pg_logical_slot_peek_binary_changes("
        f"'watch_{SHOP_PUBLICATION}', null, null, 'proto_version', '1', 'publication_names', '{SHOP_PUBLICATION}')"
        " where get_byte(data, 0) = ascii('U')"
    )
    assert key_changes > 10
    assert unsent > 10


def test_the_same_seed_makes_the_same_rows(database: Database, old_database: Database) -> None:
    for each in (database, old_database):
        create_shop(each.dsn, rows=2_000)
        workload(each.dsn, changes=1_000, seed=3)
    assert contents(database) == contents(old_database)


def test_transactions_have_varied_sizes(database: Database) -> None:
    create_shop(database.dsn, rows=2_000)
    with database.connect() as connection:
        sizes = list(transactions(connection, changes=6_000, seed=1))
    assert sum(sizes) == 6_000
    assert min(sizes) <= 5
    assert max(sizes) >= 500


def test_a_trickle_counts_what_it_streams(database: Database) -> None:
    create_shop(database.dsn, rows=2_000)
    watch(database, SHOP_PUBLICATION)
    draw = random.Random(5)
    with database.connect() as connection:
        changes = sum(trickle(connection, draw) for _ in range(100))
    kinds = seen(database, SHOP_PUBLICATION)
    assert sum(kinds[kind] for kind in ROW_CHANGES) == changes
    assert kinds["B"] == 100
    assert all(kinds[kind] > 0 for kind in ROW_CHANGES)


def test_the_inventory_is_made_once(database: Database) -> None:
    rows = create_inventory(database.dsn)
    assert create_inventory(database.dsn) == 0
    assert rows_in(database, "warehouses", "stock") == rows
    assert database.execute("select pubname from pg_publication") == [(INVENTORY_PUBLICATION,)]
