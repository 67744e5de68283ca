"""Begin and Commit frames -> the transaction of every row frame, also across the cuts of batches.

    Begin     'B' final_lsn(8) commit time(8) xid(4)
    Commit    'C' flags(1) commit_lsn(8) end_lsn(8) time(8)

Begins and Commits alternate; rows lie between; a Commit repeats its Begin's position. Anything else is a broken stream. `Open` is the transaction that
a batch leaves open; the next batch begins with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.reader.frame import MESSAGE, START, Frames, Integers, Octets, broken

PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in Unix microseconds
COMMIT_TIME_MAX = 2**62  # in microseconds: far beyond PostgreSQL's year 294276, far below an overflow
_BEGIN_BYTES, _COMMIT_BYTES = 21, 26


@dataclass(frozen=True, slots=True)
class Open:
    """A transaction whose Commit has not come, and its last row frame: WAL start, and how many row frames shared it so far.

    `commit_ts` is in microseconds since 1970.
    """

    commit_lsn: int
    commit_ts: int
    xid: int
    last_start: int = -1
    last_count: int = 0


@dataclass(frozen=True, slots=True)
class Transactions:
    """The transactions of a batch: columns with one value per row frame, and what the batch says as a whole.

    `ordinal` is twice the number of row frames before it with the same WAL start in the same transaction, so that a key change has
    room for two rows.
    """

    commit_lsn: Integers
    commit_ts: Integers
    xid: Integers
    lsn: Integers
    ordinal: Integers
    commits: int
    end_lsn: int | None
    first_commit_ts: int | None
    still_open: Open | None


def read_transactions(data: Frames, kinds: Octets, rows: Integers, carried: Open | None) -> Transactions:
    """`kinds` has the kind of every frame, `rows` says which are row frames, `carried` is what the batch before left open."""
    begins, commits = np.flatnonzero(kinds == ord("B")), np.flatnonzero(kinds == ord("C"))
    _check_order(kinds, rows, is_open=carried is not None)
    commit_lsn, commit_ts, xid = _begun(data, begins, carried)
    end_lsn = _ended(data, commits, commit_lsn)
    number = np.searchsorted(begins, rows, side="left") - (carried is None)
    lsn = data.lsn(data.start[rows] + START, "XLogData", "start")
    counts = _repeats(lsn, number, carried)
    still_open = None
    if len(commit_lsn) > len(commits):
        last = number == len(commit_lsn) - 1
        run = (int(lsn[-1]), int(counts[-1]) + 1) if bool(last.any()) else (-1, 0)
        if not len(rows) and carried is not None and not len(begins):
            run = (carried.last_start, carried.last_count)
        still_open = Open(int(commit_lsn[-1]), int(commit_ts[-1]), int(xid[-1]), *run)
    first = int(commit_ts[0]) if len(commit_ts) else None
    return Transactions(
        commit_lsn[number],
        commit_ts[number],
        xid[number],
        lsn,
        counts * 2,
        len(commits),
        end_lsn,
        first,
        still_open,
    )


def _check_order(kinds: Octets, rows: Integers, *, is_open: bool) -> None:
    """Begin and Commit in turn, and every row between the two."""
    edges = np.flatnonzero((kinds == ord("B")) | (kinds == ord("C")))
    begins_expected = np.arange(len(edges)) % 2 == is_open
    if bool(np.any((kinds[edges] == ord("B")) != begins_expected)):
        raise broken("Begin or Commit", "order")
    if bool(np.any((np.searchsorted(edges, rows) + is_open) % 2 == 0)):
        raise broken("Insert, Update, Delete or Truncate", "transaction")


def _begun(data: Frames, begins: Integers, carried: Open | None) -> tuple[Integers, Integers, Integers]:
    """Position, time and xid of every transaction of the batch; the carried one comes first."""
    at = data.start[begins] + MESSAGE
    if bool(np.any(at + _BEGIN_BYTES != data.end[begins])):
        raise broken("Begin", "length")
    lsn, clock, xid = data.lsn(at + 1, "Begin", "final_lsn"), data.i64(at + 9), data.u32(at + 17)
    if bool(np.any(np.abs(clock) > COMMIT_TIME_MAX)):
        raise broken("Begin", "commit time")
    clock = clock + PG_EPOCH_US
    if carried is None:
        return lsn, clock, xid
    before = (carried.commit_lsn, carried.commit_ts, carried.xid)
    first, second, third = (np.insert(found, 0, value) for found, value in zip((lsn, clock, xid), before, strict=True))
    return first, second, third


def _ended(data: Frames, commits: Integers, begun: Integers) -> int | None:
    """The end of the last transaction that ended."""
    at = data.start[commits] + MESSAGE
    if bool(np.any(at + _COMMIT_BYTES != data.end[commits])):
        raise broken("Commit", "length")
    lsn, end = data.lsn(at + 2, "Commit", "commit_lsn"), data.lsn(at + 10, "Commit", "end_lsn")
    if bool(np.any(lsn != begun[: len(commits)])) or bool(np.any(end <= lsn)):
        raise broken("Commit", "commit_lsn and end_lsn")
    return int(end[-1]) if len(commits) else None


def _repeats(lsn: Integers, number: Integers, carried: Open | None) -> Integers:
    """How many row frames of the same WAL start came before each in its transaction."""
    if not len(lsn):
        return lsn
    same = np.zeros(len(lsn), dtype=bool)
    same[1:] = (lsn[1:] == lsn[:-1]) & (number[1:] == number[:-1])
    index = np.arange(len(lsn), dtype=np.int64)
    heads = np.maximum.accumulate(np.where(same, 0, index))
    count = index - heads
    if carried is not None and number[0] == 0 and lsn[0] == carried.last_start:
        count[heads == 0] += carried.last_count  # the run began in the batch before
    return count
