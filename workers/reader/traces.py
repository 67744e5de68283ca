"""The first span of a batch that is followed: from its first frame until it is decoded. What follows hangs on it (`workers.snowflake.traces`)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from etl_supervisor.model import lsn
from etl_supervisor.model.trace import Trace
from etl_supervisor.monitor import tracing
from workers.reader import pieces
from workers.reader.batch import Decoded
from workers.reader.frame import Chunk


def followed(source: str, batch: Sequence[Chunk], decoded: Decoded, opened: float) -> Trace | None:
    """`decode`, of a batch whose first frame came at `opened` (monotonic seconds); None when nobody follows it, or it has no rows."""
    if not tracing.on() or not decoded.segments:
        return None
    began = time.time_ns() - int((time.monotonic() - opened) * 1e9)
    first = min(pieces.first(item.batch).commit_lsn for item in decoded.segments)
    facts: tracing.Facts = {
        "source": source,
        "rows": decoded.rows,
        "bytes": sum(len(chunk.data) for chunk in batch),
        "tables": len({item.table.oid for item in decoded.segments}),
        "commits": decoded.commits,
        "lsn.first": lsn.text(first),
        "lsn.received": lsn.text(decoded.received),
    }
    return tracing.record("decode", began, facts)
