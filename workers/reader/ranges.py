"""Which pages of a table are still to be copied (pure). What makes it sound to go on with a copy that was killed.

    attempt 1, snapshot S1     [== finished ==][== finished ==][ running ][                 ]      killed
    attempt 2, snapshot S2     [ what changed since S1 only   ][  range  ][  range  ][ range ]

A copy is complete when every row that S2 shows is in the landing table as S2 shows it, and nothing that S2 does not show is revived. Take a row
version that S2 shows:

* In a range that is read under S2: it is copied, at position S2 - 1.
* In a finished range, and S1 showed it too: it was copied at S1 - 1, and has not changed since (a change makes another version). There is no
  later row of it
  before S2.
* In a finished range, and S1 did not show it: it was inserted, updated, or moved there from another range (an update finds room in any page)
  since. It is
  selected again (`since`), whole, at S2 - 1. So it does not matter which of its large values the stream has left out (unchanged TOAST): the
  copied row comes
  after the update in the order of positions.

A row that S1 showed and S2 does not has its delete (or key change, or truncate) in the stream between S1 and S2, and those rows have been
landed since
before S1. Rows below S1 or S2 are overridden by the copy, rows from S2 on override the copy.

"S1 did not show it" is asked of the version's xmin: whatever S1 did not show was written by a transaction that S1's xmin does not precede
(`seen`). The question
may be answered yes too often (a transaction that S1 did show), which only copies a row twice, never too seldom: transaction ids are compared by
age, and a range
whose snapshot lies AGE_MAX transactions back counts no more.

A range counts for one file only: a rewrite (VACUUM FULL, CLUSTER, TRUNCATE, ALTER) moves rows without a change of their own. It counts for one
shape and row filter
only (the worker compares them). A table without a key begins again: a row of its older copy could not be told from the same row of the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etl_supervisor.model.copy_state import CopiedRange, merged
from etl_supervisor.model.table import TableName

AGE_MAX = 1 << 30  # transactions: half of what PostgreSQL can tell apart by age


@dataclass(frozen=True, slots=True)
class Leaf:
    """A relation that holds rows: the table, or one of its partitions. `pages` is None where rows have no pages to be read by: then it is read
    whole, as a `tree` with its partitions."""

    oid: int
    name: TableName
    file: int
    pages: int | None
    rows: int
    tree: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Pages `first` to `end` (exclusive; None: the whole relation) of a leaf. `since`: only what changed since the snapshot with this xmin."""

    leaf: Leaf
    first: int = 0
    end: int | None = None
    since: int | None = None

    def finished(self, seen: int, rows: int) -> list[CopiedRange]:
        """What to remember when its rows are durable."""
        leaf, end = self.leaf, self.end
        return [CopiedRange(leaf.oid, leaf.file, self.first, end, seen, rows)] if end is not None else []


def still_good(known: Iterable[CopiedRange], leaves: Iterable[Leaf], seen: int) -> tuple[CopiedRange, ...]:
    """The finished ranges that count under a snapshot with the xmin `seen`."""
    files = {leaf.oid: leaf.file for leaf in leaves if leaf.pages is not None}
    return merged(item for item in known if files.get(item.oid) == item.file and 0 <= seen - item.seen < AGE_MAX)


def plan(leaves: Sequence[Leaf], good: Sequence[CopiedRange], pages_max: int) -> list[Range]:
    """What is to be read, in order: what changed in the finished ranges, then what is left, at most `pages_max` pages at a time."""
    by_oid = {leaf.oid: leaf for leaf in leaves}
    wanted = [Range(by_oid[item.oid], item.first, item.end, item.seen) for item in good]
    for leaf in leaves:
        if leaf.pages is None:
            wanted.append(Range(leaf))
            continue
        for first, end in _gaps(leaf.pages, [item for item in good if item.oid == leaf.oid]):
            wanted += [Range(leaf, at, min(at + pages_max, end)) for at in range(first, end, pages_max)]
    return wanted


def _gaps(pages: int, good: Iterable[CopiedRange]) -> list[tuple[int, int]]:
    """The pages below `pages` that are in none of these (which are in order and do not overlap)."""
    gaps, at = [], 0
    for item in good:
        if item.first > at:
            gaps.append((at, min(item.first, pages)))
        at = max(at, item.end)
    return [(first, end) for first, end in [*gaps, (at, pages)] if first < end]


def seen_again(known: Iterable[CopiedRange], done: Range, seen: int) -> tuple[CopiedRange, ...]:
    """After what changed in a finished range was read again: it is as the newer snapshot shows it."""
    assert done.end is not None
    return merged(
        replace(item, seen=seen) if item.oid == done.leaf.oid and done.first <= item.first < done.end else item
        for item in known
    )
