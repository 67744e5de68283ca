"""How far the copy of a table has come: what its worker writes, a later worker goes on from, and `status` shows.

Only the copy's worker writes it (the reader alone writes the table's own state), so neither overwrites the other's word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from etl_supervisor.model.table import TableName

PAGE_BYTES = 8192  # PostgreSQL's usual block: for showing sizes only


@dataclass(frozen=True, slots=True)
class CopiedRange:
    """Pages `first` to `end` (exclusive) of a relation whose rows are durable in the landing table, as a snapshot showed them.

    `file` is its relfilenode: after a rewrite the pages are others. `seen` is the snapshot's xmin as a 64-bit transaction id: every row version
    that
    the snapshot did not show has a later xmin.
    """

    oid: int
    file: int
    first: int
    end: int
    seen: int
    rows: int

    @property
    def pages(self) -> int:
        """How many."""
        return self.end - self.first


@dataclass(frozen=True, slots=True)
class CopyState:
    """The copy of one table in one generation of one pipeline.

    `copy_lsn` is the consistent point of the snapshot that completed it (0 before), `since_lsn` that of the oldest one that ranges were read under.
    `form` tells under which shape and row filter the ranges
    were read:
    they count for no other. `pages_total` and `rows_total` are estimates (0: not known). `began`, `began_rows`, `began_pages` are where this
    worker began
    (Unix seconds, and what was done before it); `reported_at` is when it wrote this. `dead` rows are in the dead letter.
    """

    table: TableName
    generation: int
    copy_lsn: int = 0
    since_lsn: int = 0
    form: str = ""
    ranges: tuple[CopiedRange, ...] = ()
    pages_total: int = 0
    rows_total: int = 0
    began: float = 0.0
    began_rows: int = 0
    began_pages: int = 0
    reported_at: float = 0.0
    dead: int = 0
    trouble: str = ""

    @property
    def rows(self) -> int:
        """Rows of the finished ranges."""
        return sum(item.rows for item in self.ranges)

    @property
    def pages(self) -> int:
        """Pages of the finished ranges."""
        return sum(item.pages for item in self.ranges)

    @property
    def done(self) -> float:
        """The part of the table that is durable, 0 to 1."""
        return 1.0 if self.copy_lsn else min(1.0, self.pages / self.pages_total) if self.pages_total else 0.0

    @property
    def rows_per_second(self) -> float:
        """Of this worker; 0 while nothing is durable."""
        seconds = self.reported_at - self.began
        return (self.rows - self.began_rows) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this worker's pace; None while that is not known."""
        pages, seconds = self.pages - self.began_pages, self.reported_at - self.began
        if self.copy_lsn:
            return 0.0
        return max(0, self.pages_total - self.pages) * seconds / pages if pages > 0 and seconds > 0 else None


def merged(ranges: Iterable[CopiedRange]) -> tuple[CopiedRange, ...]:
    """In order, neighbours of one snapshot as one."""
    found: list[CopiedRange] = []
    for item in sorted(ranges, key=lambda r: (r.oid, r.first)):
        last = found[-1] if found else None
        if last is not None and (last.oid, last.file, last.end, last.seen) == (
            item.oid,
            item.file,
            item.first,
            item.seen,
        ):
            found[-1] = CopiedRange(last.oid, last.file, last.first, item.end, last.seen, last.rows + item.rows)
        else:
            found.append(item)
    return tuple(found)
