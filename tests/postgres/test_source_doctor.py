"""What the doctor says of a source: each fault is made here, and its line is what an operator reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.config.settings import load
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.model.pipeline import SourceSpec
from tests.support.fix_postgres import Database
from tests.support.streaming import make_slot, source_of
from workers.reader import doctor

KEY = "k" * 32
WAL_LIMIT = (
    "advice wal_limit at source NAME: max_slot_wal_keep_size has no limit: a slot that nobody reads fills the disk"
    " (set it to what the disk can spare; a slot beyond it is lost, which on_slot_lost decides about)"
)


def lines(database: Database, folder: Path, ours: Iterable[str] = (), **changes: Any) -> list[str]:
    """What is found in a source of a role with the least rights, without the line about max_slot_wal_keep_size, which every test server has."""
    settings = load(folder, {"SECRET_KEY": KEY})
    source, password = source_of(database)
    stored = settings.keyring().encrypt(password, f"sources/{source.name}/pg_password")
    source = replace(source, pg_password=stored, **changes)
    found = [item.line.replace(source.name, "NAME") for item in doctor.examine(settings, SourceSpec(source, ()), ours)]
    return [line for line in found if line != WAL_LIMIT]


def test_a_source_as_it_should_be_has_nothing(database: Database, tmp_path: Path) -> None:
    database.execute("create table t (k int primary key, n int); create publication p for all tables")
    assert lines(database, tmp_path) == []


def test_what_is_not_published_and_what_can_not_be_changed(database: Database, tmp_path: Path) -> None:
    database.execute("create table t (k int primary key); create table log (line int)")
    database.execute("create table none (k int primary key); alter table none replica identity nothing")
    database.execute("create publication p for all tables with (publish = 'insert, update')")
    refused = "it is published and has no replica identity: PostgreSQL refuses every UPDATE and DELETE of it"
    told_apart = (
        "it has no key that its changes bring: rows are told apart by all their values, and its copy can't be resumed"
    )
    keys = "(add a primary key, or REPLICA IDENTITY USING INDEX)"
    assert lines(database, tmp_path) == [
        "risk publication at source NAME: p does not publish delete, truncate: targets will differ from the source by that"
        " (ALTER PUBLICATION p SET (publish = 'insert, update, delete, truncate'))",
        f"risk replica_identity at source NAME, table public.log: {refused}"
        " (add a primary key, or ALTER TABLE public.log REPLICA IDENTITY FULL (or USING INDEX))",
        f"advice no_key at source NAME, table public.log: {told_apart} {keys}",
        f"risk replica_identity at source NAME, table public.none: {refused}"
        " (add a primary key, or ALTER TABLE public.none REPLICA IDENTITY FULL (or USING INDEX))",
    ]
    database.execute("alter publication p set (publish = 'insert')")
    assert not any("replica_identity" in line for line in lines(database, tmp_path))


def test_a_publication_of_no_table_is_said(database: Database, tmp_path: Path) -> None:
    database.execute("create publication p")
    assert lines(database, tmp_path) == [
        "risk publication at source NAME: p publishes no table (ALTER PUBLICATION p ADD TABLE ...)"
    ]


def test_a_slot_of_nobody_is_named_and_one_of_somebody_is_not(database: Database, tmp_path: Path) -> None:
    database.execute("create table t (k int primary key); create publication p for all tables")
    orphan = f"etl_stream_{int.from_bytes(database.name.encode()[-3:], 'big')}"
    make_slot(database, orphan)
    assert lines(database, tmp_path) == [
        f"risk orphan_slot at source NAME: slot {orphan} is of no pipeline that is configured, and keeps WAL"
        f" (SELECT pg_drop_replication_slot('{orphan}'))"
    ]
    assert lines(database, tmp_path, ours=[orphan]) == []


def test_a_connection_over_a_network_that_is_not_encrypted_is_a_risk(database: Database, tmp_path: Path) -> None:
    database.execute("create table t (k int primary key); create publication p for all tables")
    assert lines(database, tmp_path, pg_host="::ffff:127.0.0.1") == [
        "risk tls at source NAME: the connection to ::ffff:127.0.0.1 is not encrypted: rows can be read on the way"
        " (set ssl = on in PostgreSQL; set pg_tls_ca to the authority of the server (docs/security.md))"
    ]


def test_every_fault_of_a_server_is_told_at_once(open_folder: Path, tmp_path: Path) -> None:
    wrong = {"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1", "fsync": "off"}
    with EmbeddedPostgres(open_folder / "postgres", settings=wrong) as server:
        found = lines(Database(server, "postgres"), tmp_path, slot_failover=False)
    assert found == [
        "wrong source_setup at source NAME: wal_level is replica (ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL)",
        "wrong source_setup at source NAME: publication p does not exist in database NAME"
        " (CREATE PUBLICATION p FOR ALL TABLES, or name existing ones in publication_name)",
        "risk slots at source NAME: 1 of max_replication_slots are left; copies and parked pipelines need one each"
        " (raise max_replication_slots and restart PostgreSQL)",
        "risk senders at source NAME: 1 of max_wal_senders are left; copies and parked pipelines need one each"
        " (raise max_wal_senders and restart PostgreSQL)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"pg_port": 1},
            "wrong source_unreachable at source NAME: 127.0.0.1:1 does not answer (check pg_host, pg_port and the network)",
        ),
        (
            {"publication_name": 'a, "b'},
            "wrong source_setup at source NAME: publication_name can't be read at character 3 (separate names by commas; put a name"
            ' with a comma or quote in double quotes: "a, b")',
        ),
    ],
)  # fmt: skip
def test_a_source_that_can_not_be_looked_at_is_one_line(
    database: Database, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    assert lines(database, tmp_path, **changes) == [line]
