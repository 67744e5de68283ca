"""The parts of the reader that depend on PostgreSQL's version, against every version on this machine."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from etl_supervisor.errors import EtlError
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader import source as sources
from workers.reader.slot import read_slot
from workers.reader.stream import ReplicationStream


def test_a_slot_is_made_read_and_gone_on_from(each_database: Database) -> None:
    each_database.execute("create publication p for all tables")
    source, password = source_of(each_database)
    with contextlib.closing(ReplicationStream(source, password)) as stream, each_database.connect() as connection:
        assert not sources.check(connection, source)
        made = sources.starting_point(connection, stream, source, None, lambda: None)
        slot = read_slot(connection, made.slot)
        assert slot is not None
        assert (slot.confirmed, slot.wal_status, slot.lost, slot.warning) == (made.confirmed, "reserved", None, None)
        assert sources.starting_point(connection, stream, source, made, lambda: None) == made


def test_an_exported_snapshot_is_given(each_database: Database) -> None:
    source, password = source_of(each_database)
    with contextlib.closing(ReplicationStream(source, password)) as stream, each_database.connect() as connection:
        name = f"copy_{each_database.name}"
        made = stream.create_slot(name, temporary=True, snapshot=True, limit=10, tick=lambda: None)
        connection.execute("begin isolation level repeatable read")
        connection.execute(f"set transaction snapshot '{made.snapshot}'".encode())
        connection.execute("commit")


def test_a_failover_slot_is_made_or_refused_in_words(each_database: Database) -> None:
    each_database.execute("create publication p for all tables")
    source, password = source_of(each_database)
    wanted = replace(source, slot_failover=True)
    with contextlib.closing(ReplicationStream(source, password)) as stream, each_database.connect() as connection:
        major = connection.info.server_version // 10_000
        if major < 17:
            with pytest.raises(EtlError, match=f"PostgreSQL {major} has no failover slots"):
                sources.check(connection, wanted)
            return
        sources.check(connection, wanted)
        made = sources.starting_point(connection, stream, source, None, lambda: None)
        assert not read_slot(connection, made.slot).failover  # type: ignore[union-attr]
        assert sources.starting_point(connection, stream, wanted, made, lambda: None) == made
        assert read_slot(connection, made.slot).failover  # type: ignore[union-attr]


def test_keepalives_tell_of_the_wal_that_another_database_writes(each_database: Database) -> None:
    each_database.execute("create publication p for all tables")
    source, password = source_of(each_database)
    with contextlib.closing(ReplicationStream(source, password)) as stream, each_database.connect() as connection:
        made = sources.starting_point(connection, stream, source, None, lambda: None)
        with contextlib.closing(ReplicationStream(source, password)) as streaming:
            streaming.start(made.slot, made.confirmed, ["p"])
            other = Database(each_database.server, "postgres")
            other.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 1000000))")
            end = sources.wal_end(connection)

            def passed() -> bool:
                streaming.read()
                streaming.status(streaming.wal_end, streaming.wal_end)
                return streaming.wal_end >= end

            wait_for("the keepalive", passed)
