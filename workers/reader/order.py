"""The order that a stream keeps, checked for all frames of a batch at once: a row in the wrong transaction or at the wrong position never gets out.

    Begin, row messages, Commit          transactions do not nest, and rows lie in one
    commit positions rise                from transaction to transaction; Commit repeats what its Begin said
    WAL starts never fall                from row to row of one transaction, so that equal ones lie together

Nothing here mends; what does not hold is EtlError(PROTOCOL).
"""

from __future__ import annotations

import numpy as np

from workers.reader.frame import Flags, Integers, broken

# Years 1 to 9999 in Unix microseconds: what every system that the rows go to can hold.
TIME_US_MIN, TIME_US_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999


def check_nesting(begins: Integers, commits: Integers, rows: Integers, *, open_before: bool) -> None:
    """Frame numbers of Begin, Commit and row messages. `open_before`: a transaction was open when the batch began."""
    marks = np.concatenate([begins, commits])
    steps = np.repeat(np.array([1, -1], dtype=np.int64), [len(begins), len(commits)])[np.argsort(marks)]
    depth = int(open_before) + np.cumsum(steps)
    if bool(np.any((depth < 0) | (depth > 1))):
        raise broken("Begin or Commit", "order")
    inside = int(open_before) + np.searchsorted(begins, rows) - np.searchsorted(commits, rows)
    if bool(np.any(inside != 1)):
        raise broken("Insert, Update, Delete or Truncate", "transaction")


def check_commits(begun: Integers, committed: Integers, of: Integers, end: Integers) -> None:
    """`begun` are the commit positions that Begins said (first the newest before the batch); Commit i ends transaction `of[i]`
    with a record from `committed[i]` to `end[i]`."""
    if bool(np.any(np.diff(begun) <= 0)):
        raise broken("Begin", "position")
    if bool(np.any((begun[of] != committed) | (end <= committed))):
        raise broken("Commit", "position")


def check_times(commit_ts: Integers) -> None:
    """Commit times, in Unix microseconds."""
    if bool(np.any((commit_ts < TIME_US_MIN) | (commit_ts > TIME_US_MAX))):
        raise broken("Begin", "time")


def check_starts(start: Integers, same_transaction: Flags) -> None:
    """WAL starts of row messages; flag i says whether message i + 1 is in the transaction of message i."""
    if bool(np.any((np.diff(start) < 0) & same_transaction)):
        raise broken("Insert, Update, Delete or Truncate", "position")
