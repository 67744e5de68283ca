"""The books of one table in one round of copies (pure): which ranges are read, which are durable, what is to be remembered.

task ──pieces──► published (seq) ──► read to its end ──► durable up to its last seq ──► in `state.ranges`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.copy_state import CopyState, merged
from etl_supervisor.model.table import TableName
from workers.reader.masks import NOTHING_MASKED, Masks
from workers.reader.ranges import Range, plan, seen_again, still_good
from workers.reader.snapshot import Found


class Moment(NamedTuple):
    """A snapshot: its xmin (64 bits) and its consistent point."""

    seen: int
    point: int


@dataclass(slots=True)
class TableCopy:
    """One table. `seen` is the snapshot's xmin; `rows` counts what this worker has handed over, `dead` rows are in the dead letter."""

    wanted: CopyWanted
    handle: int
    found: Found
    seen: int
    state: CopyState
    tasks: Sequence[Range]
    left: int
    masks: Masks = NOTHING_MASKED
    rows: int = 0
    opened: bool = False
    durable: int = 0
    dead: int = 0
    ended: bool = False  # complete and told, or failed
    _sent: int = 0
    _running: dict[Range, int] = field(default_factory=dict)
    _read: list[tuple[int, Range, int]] = field(default_factory=list)  # (last seq, range, rows)

    @property
    def name(self) -> TableName:
        """Of the table."""
        return self.found.table.name

    @property
    def complete(self) -> bool:
        """True when every range is durable."""
        return self.left == 0

    @property
    def all_read(self) -> bool:
        """True when no more rows come."""
        return self.left == len(self._read)

    def published(self, task: Range, rows: int, seq: int) -> None:
        """A piece of this range went out, in segments up to this one."""
        self.rows += rows
        self._running[task] = self._running.get(task, 0) + rows
        self._sent = max(self._sent, seq)

    def read(self, task: Range) -> None:
        """This range has no more rows."""
        self._read.append((self._sent, task, self._running.pop(task, 0)))

    def settle(self, now: float) -> bool:
        """Ranges whose rows are durable by now are remembered; True when there were any."""
        done = [item for item in self._read if item[0] <= self.durable]
        if not done:
            return False
        self._read = [item for item in self._read if item[0] > self.durable]
        self.left -= len(done)
        ranges = self.state.ranges
        for _, task, rows in done:
            read = merged([*ranges, *task.finished(self.seen, rows)])
            ranges = read if task.since is None else seen_again(ranges, task, self.seen)
        self.state = replace(self.state, ranges=ranges, reported_at=now)
        return True


def begin(
    wanted: CopyWanted, handle: int, found: Found, at: Moment, known: CopyState | None, pages_max: int
) -> TableCopy:
    """The books of a copy under a snapshot, going on from what an earlier worker of the same generation has left (`known`)."""
    seen = at.seen
    same = known is not None and (known.generation, known.form) == (wanted.generation, found.form)
    good = still_good(known.ranges, found.leaves, seen) if known is not None and same and found.table.key else ()
    tasks = plan(found.leaves, good, pages_max)
    now = time.time()
    state = CopyState(
        found.table.name,
        wanted.generation,
        since_lsn=known.since_lsn if known is not None and good else at.point,
        form=found.form,
        ranges=good,
        pages_total=found.pages,
        rows_total=sum(leaf.rows for leaf in found.leaves),
        began=now,
        reported_at=now,
    )
    state = replace(state, began_rows=state.rows, began_pages=state.pages)
    return TableCopy(wanted, handle, found, seen, state, tasks, len(tasks))
