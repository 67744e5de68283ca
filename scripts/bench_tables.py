"""What the number of tables costs the decoder: CPU time per row with 1, 100 and 5,000 tables in the stream.

The frames are made here: transactions of 100 inserts into one table (five columns), the tables in turn, in batches of 10,000 frames. `spread` is the
worst case: every row of a transaction is of another table.
"""

from __future__ import annotations

import struct
import time

from workers.reader.frame import Chunk
from workers.reader.pgoutput import Decoder
from workers.reader.relations import Relations

TABLES = (1, 100, 5_000)
ROWS = 200_000
ROWS_PER_TRANSACTION = 100
FRAMES_PER_BATCH = 10_000
REPEATS = 5
_COLUMNS = (
    ("id", 1, 20, -1),
    ("name", 0, 25, -1),
    ("at", 0, 1184, -1),
    ("amount", 0, 1700, ((12 << 16) | 2) + 4),
    ("ok", 0, 16, -1),
)


def scaling(*, spread: bool = False) -> dict[str, float]:
    """Microseconds of CPU per row by number of tables, and the largest over the smallest as `ratio`. The best of several runs, in turns."""
    streams = {tables: _stream(tables, spread=spread) for tables in TABLES}
    best = dict.fromkeys(TABLES, float("inf"))
    for _ in range(REPEATS):
        for tables, chunks in streams.items():
            best[tables] = min(best[tables], _seconds(chunks) / ROWS * 1e6)
    return {str(tables): round(found, 3) for tables, found in best.items()} | {
        "ratio": round(max(best.values()) / min(best.values()), 2)
    }


def _seconds(chunks: list[Chunk]) -> float:
    decoder = Decoder(Relations(lambda oid: None))
    decoder.decode(chunks[:1])  # the tables' shapes, and a row of each
    started = time.process_time()
    rows = sum(decoder.decode([chunk]).rows for chunk in chunks[1:])
    seconds = time.process_time() - started
    assert rows == ROWS, rows
    return seconds


def _stream(tables: int, *, spread: bool) -> list[Chunk]:
    relations = [_frame(1, _relation(oid)) for oid in range(1, tables + 1)]
    rows = [_frame(11, _insert(oid, 0)) for oid in range(1, tables + 1)]
    frames, lsn = [], 100
    for transaction in range(ROWS // ROWS_PER_TRANSACTION):
        commit = lsn + 10 * ROWS_PER_TRANSACTION
        frames.append(_frame(lsn, b"B" + struct.pack("!qqI", commit, transaction, 1)))
        for row in range(ROWS_PER_TRANSACTION):
            number = transaction * ROWS_PER_TRANSACTION + row
            lsn += 1
            frames.append(_frame(lsn, _insert((number if spread else transaction) % tables + 1, number)))
        lsn = commit + 10
        frames.append(_frame(commit, b"C\0" + struct.pack("!qqq", commit, lsn, transaction)))
    first = [
        _frame(10, b"B" + struct.pack("!qqI", 20, 0, 1)),
        *relations,
        *rows,
        _frame(20, b"C\0" + struct.pack("!qqq", 20, 30, 0)),
    ]
    batches = [frames[at : at + FRAMES_PER_BATCH] for at in range(0, len(frames), FRAMES_PER_BATCH)]
    return [Chunk.of(first), *map(Chunk.of, batches)]


def _frame(lsn: int, message: bytes) -> bytes:
    return b"w" + struct.pack("!qqq", lsn, lsn, 0) + message


def _relation(oid: int) -> bytes:
    columns = b"".join(
        bytes([key]) + name.encode() + b"\0" + struct.pack("!Ii", kind, mod) for name, key, kind, mod in _COLUMNS
    )
    return b"R" + struct.pack("!I", oid) + b"public\0t%d\0d" % oid + struct.pack("!H", len(_COLUMNS)) + columns


def _insert(oid: int, number: int) -> bytes:
    values = (
        b"%d" % number,
        b"name of row %d" % number,
        b"2024-01-01 00:00:%02d.5+00" % (number % 60),
        b"%d.25" % (number % 1000),
        b"t",
    )
    tuple_ = b"".join(b"t" + struct.pack("!I", len(value)) + value for value in values)
    return b"I" + struct.pack("!I", oid) + b"N" + struct.pack("!H", len(values)) + tuple_
