"""Change-log batches cut into segments, and where their rows stand."""

from __future__ import annotations

import pyarrow as pa

from etl_supervisor.ipc import arrow
from etl_supervisor.model.position import Position

COMMIT_LSN, LSN, ORDINAL = 1, 2, 3  # columns of `ipc.arrow.META_FIELDS`


def split(batch: pa.RecordBatch, bytes_max: int) -> list[tuple[pa.RecordBatch, int]]:
    """The batch in pieces of at most `bytes_max` bytes of Arrow IPC, as far as whole rows allow; with their sizes."""
    size = arrow.ipc_size(batch)
    if size <= bytes_max or batch.num_rows == 1:
        return [(batch, size)]
    half = batch.num_rows // 2
    return split(batch.slice(0, half), bytes_max) + split(batch.slice(half), bytes_max)


def position(batch: pa.RecordBatch, row: int, generation: int) -> Position:
    """The position of a row."""
    return Position(generation, *(batch.column(column)[row].as_py() for column in (COMMIT_LSN, LSN, ORDINAL)))


def first(batch: pa.RecordBatch) -> Position:
    """Where the frame of the first row stands; the generation is the follower's."""
    return Position(0, batch.column(COMMIT_LSN)[0].as_py(), batch.column(LSN)[0].as_py(), 0)
