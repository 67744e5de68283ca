"""What the decoder makes of a sealed batch."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.model.table import Table


@dataclass(slots=True)  # one is made per table and batch: a frozen one costs a microsecond more
class TableBatch:
    """Rows of one table in one version of its shape, in stream order; schema: `ipc.arrow.change_log_schema(table)`."""

    table: Table
    batch: pa.RecordBatch

    @property
    def incomplete_at(self) -> int | None:
        """The newest commit that brought a row for the first time without all of its values; None when all rows are whole.

        An update that moves a row into a publication's filter comes as an insert. What TOAST keeps out of line and the update did not change
        is in no message, unless the replica identity is FULL.
        """
        unchanged = self.batch.column("_etl_unchanged")
        if unchanged.null_count == len(unchanged):
            return None
        first = pc.and_(pc.equal(self.batch.column("_etl_op"), "I"), self.batch.column("_etl_old_key").is_null())
        newest: int | None = pc.max(
            self.batch.column("_etl_commit_lsn").filter(pc.and_(first, unchanged.is_valid()))
        ).as_py()
        return newest


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
