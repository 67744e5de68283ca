"""Errors of the walsender itself: the same place fails each time, and it is said which, and what can be done."""

from __future__ import annotations

import contextlib

import pytest

from etl_supervisor.errors import EtlError
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.streaming import SECONDS_MAX, rows_of, source_of, streaming
from workers.reader.decode_failure import Failure
from workers.reader.stream import ReplicationStream

BYTES_600_MB = 600 << 20  # as hexadecimal text it is longer than PostgreSQL's 1 GiB


def slot_of(database: Database) -> tuple[str, int]:
    """A slot made now, and where it begins."""
    source, password = source_of(database)
    maker = ReplicationStream(source, password)
    made = maker.create_slot(f"slot_{database.name}", temporary=False, snapshot=False, limit=10, tick=lambda: None)
    maker.close()
    return made.name, made.consistent_point


def failure(database: Database, slot: str, position: int, seconds: float = SECONDS_MAX) -> EtlError:
    """The error that the stream ends with."""
    with contextlib.closing(ReplicationStream(*source_of(database))) as stream:
        stream.start(slot, position, ["p"])
        with pytest.raises(EtlError) as caught:
            wait_for("the error", lambda: stream.status(0, 0) or (stream.read() and False), seconds)
    return caught.value


def test_a_publication_that_was_made_again_fails_at_the_same_place_for_ever(old_database: Database) -> None:
    old_database.execute("create table t (id int primary key); create publication p for table t")
    slot, begin = slot_of(old_database)
    old_database.execute("drop publication p")
    old_database.execute("insert into t values (1)")
    old_database.execute("create publication p for table t")
    first, second = failure(old_database, slot, begin), failure(old_database, slot, begin)
    assert first.kind == "walsender"
    assert first.line == second.line
    assert first.line.startswith(f"walsender at source {old_database.name}: PostgreSQL can't decode its WAL at 0/")
    assert 'publication "p" does not exist (the publication was made after that change' in first.line


def test_newer_servers_leave_out_what_was_written_without_the_publication(database: Database) -> None:
    database.execute("create table t (id int primary key); create publication p for table t")
    with streaming(database) as decoding:
        database.execute("insert into t values (1)")
        database.execute("drop publication p")
        database.execute("insert into t values (2)")
        database.execute("create publication p for table t")
        database.execute("insert into t values (3)")
        assert [row["id"] for row in rows_of(decoding.batches(), "t")] == [1, 3]


def test_a_walsender_that_is_terminated_is_not_a_fault_of_its_wal(database: Database) -> None:
    database.execute("create publication p for all tables")
    slot, begin = slot_of(database)
    with contextlib.closing(ReplicationStream(*source_of(database))) as stream:
        stream.start(slot, begin, ["p"])
        database.execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = %s", slot
        )
        with pytest.raises(EtlError) as caught:
            wait_for("the error", lambda: stream.read() and False)
    assert (caught.value.kind, caught.value.transient) == ("stream", True)


@pytest.mark.parametrize(
    ("severity", "sqlstate", "of_decoding"),
    [
        ("ERROR", "XX000", True),
        ("ERROR", "42704", True),
        ("ERROR", "54000", True),
        ("ERROR", "57014", False),
        ("ERROR", "53100", False),
        ("FATAL", "XX000", False),
    ],
)
def test_what_may_pass_is_not_held(severity: str, sqlstate: str, of_decoding: bool) -> None:
    assert Failure(severity, sqlstate, "", None).of_decoding is of_decoding


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_value_too_large_for_its_text_form_is_named_with_its_remedy(database: Database) -> None:
    database.execute("create table t (id int primary key, b bytea)")
    database.execute("alter table t alter b set storage external")  # no time for its compression
    database.execute("create publication p for all tables")
    slot, begin = slot_of(database)
    database.execute(f"insert into t values (1, convert_to(repeat('x', {BYTES_600_MB}), 'utf8'))")
    found = failure(database, slot, begin, seconds=120)
    assert found.kind == "walsender"
    assert "invalid memory alloc request size" in found.reason
    assert "set transfer = 'binary' of the source" in found.remedy
