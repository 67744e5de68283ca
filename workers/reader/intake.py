"""Frames of the walsender -> sealed batches: one read, or one part of a long transaction, at a time.

    socket ─► chunk ─► assembler ─► parts ─► batcher ─► batches

What one read brings may be much more than a read: the commit of a streamed transaction brings all its rows. Its parts are taken one by one,
and nothing is read meanwhile, so memory stays bounded and the loop's other duties get their turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etl_supervisor.config.settings import Settings
from etl_supervisor.model.pipeline import SourceSpec
from workers.reader.assembler import Assembler
from workers.reader.batcher import Batcher
from workers.reader.frame import Chunk
from workers.reader.spool import check_directory
from workers.reader.stream import ReplicationStream


class Intake:
    """What stands between the connection and the decoder. Times are seconds of the monotonic clock."""

    def __init__(self, stream: ReplicationStream, assembler: Assembler, batcher: Batcher) -> None:
        self._stream, self._assembler, self._batcher = stream, assembler, batcher
        self._parts: Iterator[Chunk] | None = None  # of what was read last
        self._told = 0  # pieces

    @property
    def more(self) -> bool:
        """True when the last read brought something: there may be more that no socket tells of."""
        return self._parts is not None

    @property
    def idle(self) -> bool:
        """True when no frame waits for anything (but for the commit of its transaction)."""
        return self._parts is None and self._batcher.empty

    @property
    def has_open_batch(self) -> bool:
        """True when a batch has begun."""
        return not self._batcher.empty

    @property
    def opened(self) -> float:
        """When the first frame of the batch came that is open, or was sealed last."""
        return self._batcher.opened

    @property
    def spooled_bytes(self) -> int:
        """What transactions in progress hold, in memory and on disk."""
        return self._assembler.memory_bytes + self._assembler.disk_bytes

    def new_pieces(self) -> int:
        """How many pieces of transactions in progress came since this was asked last."""
        before, self._told = self._told, self._assembler.pieces
        return self._told - before

    def read(self, now: float) -> Iterator[list[Chunk]]:
        """The batches that are full by now."""
        if self._parts is None:
            chunk = self._stream.read()
            if chunk is None:
                return
            self._parts = self._assembler.take(chunk)
        else:
            self._stream.heard = now  # silence while we do not listen says nothing
        part = next(self._parts, None)
        if part is None:
            self._parts = None
        while part is not None:
            part = self._batcher.take(part, now)
            if self._batcher.full:
                yield self._batcher.seal()

    def due_at(self) -> float:
        """When the open batch is to be sealed at the latest; infinity when it is empty."""
        return self._batcher.due_at()

    def seal(self) -> list[Chunk]:
        """The open batch; the next one begins."""
        return self._batcher.seal()

    def close(self) -> None:
        """Forget every transaction in progress: the slot has them."""
        self._assembler.close()


def intake_of(stream: ReplicationStream, spec: SourceSpec, settings: Settings) -> Intake:
    """The intake of a source. One slot feeds all its pipelines, so the most eager of them decides when a batch is sealed. EtlError(SPOOL) when
    SPOOL_DIRECTORY can't be written."""
    directory = Path(settings.spool_directory) if settings.spool_directory else None
    place = f"source {spec.source.name}"
    if spec.source.stream_in_progress:
        check_directory(directory, place)
    return Intake(
        stream,
        Assembler(settings.spool_memory_mb << 20, settings.spool_disk_mb << 20, directory, place),
        Batcher(
            rows_max=min(pipeline.batch_max_size for pipeline in spec.pipelines),
            bytes_max=settings.batch_max_bytes_mb << 20,
            fill_seconds=min(pipeline.batch_max_fill_ms for pipeline in spec.pipelines) / 1000,
        ),
    )
