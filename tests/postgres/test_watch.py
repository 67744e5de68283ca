"""The source beside the stream: its slot's health, the heartbeat, and that nothing of it holds up the reader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.errors import EtlError
from tests.support import least
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader import source as sources
from workers.reader.aside import Aside
from workers.reader.heartbeat import Access, Pulse
from workers.reader.slot import CONFLICT, REASONS, facts_of
from workers.reader.stream import ReplicationStream
from workers.reader.watch import Watch

ROW = {"confirmed_flush_lsn": "0/10", "wal_status": "reserved", "safe_wal_size": None}  # what every version has


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, None),
        ({"wal_status": "lost"}, REASONS["wal_removed"]),
        ({"wal_status": "lost", "conflicting": True}, CONFLICT),
        ({"wal_status": "lost", "invalidation_reason": "rows_removed"}, REASONS["rows_removed"]),
        ({"invalidation_reason": "a reason of the future"}, "a reason of the future"),
        ({"confirmed_flush_lsn": None}, "its creation was never finished"),
    ],
)
def test_a_slot_is_lost_when_the_server_says_so_in_any_version(changes: dict[str, Any], lost: str | None) -> None:
    assert facts_of(ROW | changes).lost == lost


def test_only_a_slot_that_will_soon_be_lost_is_warned_of() -> None:
    assert facts_of(ROW | {"wal_status": "extended"}).warning is None
    assert "next checkpoint" in str(facts_of(ROW | {"wal_status": "unreserved"}).warning)


def test_the_heart_beats_only_while_no_row_comes() -> None:
    pulse = Pulse(10, now=0)
    assert [pulse.beats(now, rows=0) for now in (9, 10, 19, 20)] == [False, True, False, True]
    assert not pulse.beats(29, rows=1)
    assert [pulse.beats(now, rows=1) for now in (38, 39)] == [False, True]
    assert not Pulse(0, now=0).beats(1e9, rows=0)


def test_a_statement_that_hangs_holds_up_nobody(database: Database) -> None:
    def hang(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET statement_timeout = 3000")
        connection.execute("SELECT pg_sleep(60)")

    aside = Aside("test", database.connect, hang)
    began = time.monotonic()
    for _ in range(100):
        aside.ask()
    assert time.monotonic() - began < 2, "less than one statement takes"
    wait_for("the trouble", lambda: aside.trouble == "canceling statement due to statement timeout")
    aside.close()


def test_work_aside_goes_on_after_its_connection_broke(database: Database) -> None:
    pids: list[int] = []

    def work(connection: psycopg.Connection[Any]) -> None:
        pids.append(connection.execute("SELECT pg_backend_pid()").fetchone()[0])  # type: ignore[index]

    aside = Aside("test", database.connect, work)
    aside.ask()
    wait_for("the first", lambda: pids)
    database.execute("select pg_terminate_backend(%s, 5000)", pids[0])
    wait_for("another connection", lambda: aside.ask() or len(set(pids)) > 1)
    aside.close()
    assert aside.trouble == ""


@contextmanager
def watching(database: Database, **changes: Any) -> Iterator[tuple[Watch, str]]:
    """A slot and its watch."""
    source, password = source_of(database)
    source = replace(source, **changes)
    slot = f"slot_{database.name}"
    stream = ReplicationStream(source, password)
    stream.create_slot(slot, temporary=False, snapshot=False, limit=10, tick=lambda: None)
    watch = Watch(Access(source, password, None, stream.identify()[0]), slot, standby=False)
    try:
        yield watch, slot
    finally:
        watch.close()
        stream.close()


def tick(watch: Watch) -> bool:
    """One tick; for waiting."""
    watch.tick(time.monotonic(), rows=0)
    return True


def test_a_quiet_source_gets_messages_in_its_wal(database: Database) -> None:
    database.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", f"peek_{database.name}")
    peek = f"select count(*) from pg_logical_slot_peek_changes('peek_{database.name}', null, null) where data like %s"
    like = "message: transactional: 0 prefix: etl-stream%"
    with watching(database, heartbeat_seconds=0.1) as (watch, _):
        wait_for("three beats", lambda: tick(watch) and database.execute(peek, like)[0][0] >= 3)
        assert watch.trouble == ""
        assert (watch.facts.standby, watch.facts.slot.wal_status) == (False, "reserved")  # type: ignore[union-attr]
        assert watch.facts.wal_end > 0


def test_without_a_heartbeat_nothing_is_written(database: Database) -> None:
    with watching(database, heartbeat_seconds=0) as (watch, _):
        database.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", f"peek_{database.name}")
        wait_for("facts", lambda: tick(watch) and watch.facts.wal_end)
        watch.tick(time.monotonic() + 1e6, rows=0)
        peek = f"select * from pg_logical_slot_peek_changes('peek_{database.name}', null, null)"
        assert database.execute(peek) == []


def test_a_slot_that_is_dropped_under_the_reader_is_lost(database: Database) -> None:
    with watching(database) as (watch, slot):
        database.execute("select pg_drop_replication_slot(%s)", slot)
        with pytest.raises(EtlError, match=f"slot {slot} does not exist any more") as caught:
            wait_for("the loss", lambda: tick(watch) and False)
        assert caught.value.kind == "slot_lost"


def test_a_slot_that_lost_its_wal_is_named_with_the_reason(open_folder: Path) -> None:
    limits = {"fsync": "off", "max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with EmbeddedPostgres(open_folder / "postgres", settings=limits) as server:
        database = Database(server, "postgres")
        source, password = source_of(database)
        stream = ReplicationStream(source, password)
        with least.connect(database) as connection:
            known = sources.starting_point(connection, stream, source, None, lambda: None)
            for _ in range(4):
                database.execute("select pg_logical_emit_message(false, 'fill', repeat('x', 20000000))")
                database.execute("checkpoint")
            with pytest.raises(EtlError, match=r"was invalidated: the WAL it needs was removed \(raise max_slot"):
                sources.starting_point(connection, stream, source, known, lambda: None)
        stream.close()
