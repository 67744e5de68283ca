"""Both ways of reading a walsender, the socket and libpq, give the same frames, and say what is wrong in the same words."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from etl_supervisor.embedded.snowflake.certificates import certificates_in
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from tests.support.copying import copied
from tests.support.fix_postgres import Database
from tests.support.streaming import frames_of, make_slot, source_of
from workers.reader import stream as streams
from workers.reader.copyboth import READ_BYTES_MAX, BrokenOffError, Direct, ServerError, ThroughLibpq
from workers.reader.stream import ReplicationStream

WAYS = {"socket": lambda pg: Direct(pg.socket), "libpq": ThroughLibpq}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(streams, "copy_both", WAYS[request.param])
    return str(request.param)


def opened(database: Database, slot: str, **options: str) -> ReplicationStream:
    source, password = source_of(database)
    stream = ReplicationStream(replace(source, **options), password)
    try:
        stream.start(slot, 0, ["p"])
    except EtlError:
        stream.close()
        raise
    return stream


def frames_to(stream: ReplicationStream, end: int) -> list[bytes]:
    """Everything that comes before the walsender tells this position."""
    found: list[bytes] = []
    while stream.wal_end < end:
        found += frames_of(stream.read())
        stream.status(0, 0, reply=True)
        select.select([stream], [], [], 0.05)
    return found + frames_of(stream.read())


def end_of(database: Database) -> int:
    ((text,),) = database.execute("select pg_current_wal_insert_lsn()::text")
    database.execute("select pg_logical_emit_message(true, 'end', '')")
    return lsn.parse(text)


def test_both_ways_give_the_same_frames(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = "with (autovacuum_enabled = false)"  # an analyze in between would have the relation told again
    database.execute(f"create table t (id int primary key, note text) {calm}; create publication p for all tables")
    for way in WAYS:
        make_slot(database, f"{database.name}_{way}")
    database.execute("insert into t select g, repeat('x', g) from generate_series(1, 3000) g")
    database.execute(f"insert into t values (0, repeat('y', {3 * READ_BYTES_MAX}))")
    database.execute("update t set id = -id where id < 100; delete from t where id > 2000")
    found = {}
    for name, made in WAYS.items():
        monkeypatch.setattr(streams, "copy_both", made)
        stream = opened(database, f"{database.name}_{name}")
        found[name] = frames_to(stream, end_of(database))
        stream.close()
    messages = {name: [frame[25:] for frame in frames] for name, frames in found.items()}  # the header has a clock
    assert messages["socket"][:5000] == messages["libpq"][:5000]
    assert max(map(len, messages["socket"])) > 3 * READ_BYTES_MAX
    assert len(messages["socket"]) > 4000


def test_a_walsender_that_is_terminated_is_a_stream_that_broke_off(database: Database, way: str) -> None:
    database.execute("create publication p for all tables")
    make_slot(database, database.name)
    stream = opened(database, database.name)
    database.execute("select pg_terminate_backend(%s, 5000)", stream.backend_pid)
    with pytest.raises(EtlError, match=r"stream at source .*terminating connection due to administrator command"):
        frames_to(stream, 1 << 60)
    stream.close()


def test_a_connection_that_is_cut_is_a_stream_that_broke_off(database: Database, way: str) -> None:
    database.execute("create publication p for all tables")
    make_slot(database, database.name)
    stream = opened(database, database.name)
    stream.cut()
    with pytest.raises(EtlError, match="it is connected again by itself") as broken:
        frames_to(stream, 1 << 60)
    assert broken.value.kind is Kind.STREAM
    stream.close()


def test_a_slot_that_is_not_there_is_named(database: Database, way: str) -> None:
    database.execute("create publication p for all tables")
    with pytest.raises(EtlError, match='replication slot "nowhere" does not exist'):
        opened(database, "nowhere")


def test_a_closed_stream_leaves_its_slot(database: Database, way: str) -> None:
    database.execute("create publication p for all tables")
    make_slot(database, database.name)
    opened(database, database.name).close()
    opened(database, database.name).close()  # a walsender that were still there would have the slot


@pytest.fixture
def encrypted(old_database: Database, open_folder: Path) -> Iterator[tuple[Database, Path]]:
    """A server of a build that knows TLS, with a certificate; and its authority."""
    files = certificates_in(open_folder)
    owner = old_database.server.data_dir.stat()
    for path in open_folder.iterdir():
        os.chown(path, owner.st_uid, owner.st_gid)
    settings = {"ssl_cert_file": str(files.server), "ssl_key_file": str(files.key), "ssl": "on"}
    for name, value in settings.items():
        old_database.execute(f"alter system set {name} = '{value}'")
    old_database.execute("select pg_reload_conf()")
    yield old_database, files.ca
    for name in settings:
        old_database.execute(f"alter system reset {name}")
    old_database.execute("select pg_reload_conf()")


def test_an_encrypted_connection_is_read_through_libpq(encrypted: tuple[Database, Path]) -> None:
    database, authority = encrypted
    database.execute("create table t (id int primary key, note text); create publication p for all tables")
    make_slot(database, database.name)
    database.execute("insert into t select g, repeat('x', 1000) from generate_series(1, 3000) g")
    stream = opened(database, database.name, pg_tls_mode="verify-full", pg_tls_ca=str(authority))
    assert isinstance(stream._copy, ThroughLibpq)
    ((encrypted_,),) = database.execute("select ssl from pg_stat_ssl where pid = %s", stream.backend_pid)
    assert encrypted_
    assert sum(frame[25:26] == b"I" for frame in frames_to(stream, end_of(database))) == 3000
    stream.close()
    for text in (True, False):
        _, rows = copied(database, "t", text=text, pg_tls_mode="verify-full", pg_tls_ca=str(authority))
        assert sorted(rows.column("id").to_pylist()) == list(range(1, 3001))


# -- against a server that says what it should not


@pytest.fixture
def line() -> Iterator[tuple[Direct, socket.socket]]:
    ours, theirs = socket.socketpair()
    direct = Direct(ours.fileno())
    yield direct, theirs
    direct.close()
    ours.close()
    theirs.close()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def test_words_before_the_end_are_heard(line: tuple[Direct, socket.socket]) -> None:
    direct, server = line
    error = message(b"E", b"SERROR\0VERROR\0C57P01\0Mgoing down\0\0")
    server.sendall(message(b"d", b"one") + message(b"N", b"\0") + message(b"d", b"two") + error)
    server.close()
    assert frames_of(direct.read()) == [b"one"]
    assert direct.read() is None
    assert frames_of(direct.read()) == [b"two"]
    with pytest.raises(ServerError, match="going down") as ended:
        direct.read()
    assert (ended.value.severity, ended.value.sqlstate) == ("ERROR", "57P01")


@pytest.mark.parametrize("length", [0, 3, 0x7FFFFFFF])
def test_a_length_that_can_not_be_is_the_end(line: tuple[Direct, socket.socket], length: int) -> None:
    direct, server = line
    server.sendall(b"d" + struct.pack("!I", length) + b"x" * 100)
    if length > READ_BYTES_MAX:
        assert direct.read() is None  # nothing is reserved for what has not come
        server.close()
    with pytest.raises(BrokenOffError, match=r"within a message|length that the protocol does not allow"):
        direct.read()


def test_a_message_in_pieces_is_one(line: tuple[Direct, socket.socket]) -> None:
    direct, server = line
    whole = message(b"d", b"w" * 100)
    server.sendall(whole[:3])
    assert direct.read() is None
    server.sendall(whole[3:50])
    assert direct.read() is None
    server.sendall(whole[50:] + whole[:7])
    assert frames_of(direct.read()) == [b"w" * 100]
    server.sendall(whole[7:])
    assert frames_of(direct.read()) == [b"w" * 100]
