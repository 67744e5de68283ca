"""Streams a test database's changes through the real reader parts, without a supervisor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Source
from tests.support import least
from tests.support.fix_postgres import Database
from workers.reader.assembler import Assembler
from workers.reader.batch import TableBatch
from workers.reader.catalog import read_catalog
from workers.reader.frame import Chunk
from workers.reader.pgoutput import Decoder
from workers.reader.relations import Relations
from workers.reader.source import publications_of
from workers.reader.stream import ReplicationStream, connect
from workers.reader.transfer import BinaryForms

SECONDS_MAX = 20.0


def source_of(database: Database, publication: str = "p", replication_id: int = 1) -> tuple[Source, str]:
    """The source that a test database is, with a role that has the least rights, and its password."""
    columns = least.source(database)
    source = Source(
        1,
        database.name,
        str(columns["pg_host"]),
        columns["pg_port"],
        database.name,
        columns["pg_username"],
        None,
        "disable",
        None,
        publication,
        replication_id,
    )
    return source, columns["pg_password"]


def make_slot(database: Database, name: str) -> int:
    """A slot that begins now; where."""
    source, password = source_of(database)
    maker = ReplicationStream(source, password)
    made = maker.create_slot(name, temporary=False, snapshot=False, limit=10, tick=lambda: None)
    maker.close()
    return made.consistent_point


@contextmanager
def streaming(
    database: Database, publication: str = "p", slot: str = "", *, binary: bool = False, in_progress: bool = False
) -> Iterator[Decoding]:
    """A slot made now (or the given one), streamed from now on."""
    source, password = source_of(database, publication)
    name = slot or f"slot_{database.name}"
    position = 0 if slot else make_slot(database, name)
    stream = ReplicationStream(source, password)
    stream.start(name, position, publications_of(source), binary=binary, streaming=in_progress)
    catalog = connect(source, password)
    decoder = Decoder(Relations(lambda oid: read_catalog(catalog, oid)), BinaryForms(catalog) if binary else None)
    try:
        yield Decoding(database, stream, decoder)
    finally:
        stream.close()
        catalog.close()


class Decoding:
    """A stream and its decoder."""

    def __init__(self, database: Database, stream: ReplicationStream, decoder: Decoder) -> None:
        self.database, self.stream, self.decoder = database, stream, decoder
        self.assembler = Assembler(1 << 20, 1 << 30, None, "a test")

    def frames(self) -> list[bytes]:
        """Every frame up to the present end of WAL."""
        ((text,),) = self.database.execute("select pg_current_wal_insert_lsn()::text")
        self.database.execute("select pg_logical_emit_message(true, 'end', '')")
        goal, frames, deadline = lsn.parse(text), [], time.monotonic() + SECONDS_MAX
        while self.stream.wal_end < goal:
            frames += frames_of(self.stream.read())
            self.stream.status(0, 0, reply=True)
            assert time.monotonic() < deadline, "the stream did not come to its end"
        return frames + frames_of(self.stream.read())

    def batches(self, cut: int = 0) -> list[TableBatch]:
        """The decoded changes, in batches of `cut` frames (0: one batch)."""
        frames = self.frames()
        step = cut or len(frames) or 1
        found = []
        for at in range(0, len(frames), step):
            parts = list(self.assembler.take(Chunk.of(frames[at : at + step])))
            found += self.decoder.decode(parts).segments
        return found


def frames_of(chunk: Chunk | None) -> list[bytes]:
    """The frames of a chunk, one by one."""
    if chunk is None:
        return []
    return [bytes(chunk.data[first:last]) for first, last in zip(chunk.start.tolist(), chunk.end.tolist(), strict=True)]


def rows_of(batches: list[TableBatch], table: str) -> list[dict[str, object]]:
    """All rows of one table, as dictionaries, in order."""
    parts = [item.batch for item in batches if item.table.name.name == table]
    return [row for part in parts for row in part.to_pylist()]


def texts(array: pa.Array) -> list[str | None]:
    """Arrow's own text of the values."""
    found: list[str | None] = array.cast(pa.string()).to_pylist()
    return found
