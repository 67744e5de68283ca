"""What the decoder makes of a sealed batch."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from etl_supervisor.model.table import Table


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Rows of one table in one version of its shape, in stream order; schema: `ipc.arrow.change_log_schema(table)`."""

    table: Table
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded batch.

    `end_lsn` is the end of the last transaction that ended in it (None: none did). `received` is the newest WAL end seen. `rows` counts
    change-log rows, `first_commit_ts` is the commit time of its oldest transaction (microseconds since 1970).
    """

    segments: list[TableBatch]
    end_lsn: int | None
    received: int
    rows: int
    commits: int
    first_commit_ts: int | None
