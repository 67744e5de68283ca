"""Two sides of a table, compared in bounded memory: sums by bucket, then the rows of the buckets that differ.

    pass 1    every row: fingerprints of key and row; bucket = low bits of the key's. Of each bucket: how many rows, and the sum of their fingerprints
    pass 2    only where count or sum differ, the rows of these buckets: both sides as multisets, what is left is different

A table that is equal is read once. A key is missing when only the source has it, extra when only the target has it, different when both have it with
other values. A table without a key is compared as a multiset: there each row is its own key.

Memory: two numbers for each of BUCKETS buckets and side, and at most ROWS_HELD_MAX rows (two fingerprints and the key). When more rows are in buckets
that differ, they are looked at in turns, PASSES_MAX of them; beyond that the counts are lower limits (`whole` is False): a table in which so much
differs needs no list of keys. Two different rows have the same fingerprint once in 2**64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.verify.fingerprints import Prints, fingerprints

BUCKETS = 1 << 16  # of ten million rows each has 150; the sums of both sides are 2 MB
ROWS_HELD_MAX = 500_000
PASSES_MAX = 4
KEYS_KEPT_MAX = 1000  # of each sort; counted are all

Buckets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts of some rows: what identifies each, and the whole of it."""

    key: pa.Array
    row: pa.Array


class Side(Protocol):
    """One side of a table."""

    def rows(self) -> Iterator[Rows]:
        """All rows, from the beginning; the same ones each time."""


@dataclass(frozen=True, slots=True)
class Odd:
    """Rows that are not as they should be: how many, and the keys of the first ones as joined texts."""

    count: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs. `whole`: every bucket that differs was looked at."""

    source_rows: int
    target_rows: int
    missing: Odd = Odd()
    extra: Odd = Odd()
    different: Odd = Odd()
    whole: bool = True

    @property
    def equal(self) -> bool:
        """True when the two sides are the same."""
        return self.whole and not (self.missing.count or self.extra.count or self.different.count)


@dataclass(frozen=True, slots=True)
class _Sums:
    count: Buckets
    total: Prints


def compare(source: Side, target: Side) -> Difference:
    """Read both sides, and what differs once more."""
    ours, theirs = _summed(source), _summed(target)
    sizes = int(ours.count.sum()), int(theirs.count.sum())
    other = np.flatnonzero((ours.count != theirs.count) | (ours.total != theirs.total))
    found = _Found()
    turns = list(_turns(other, (ours.count + theirs.count)[other]))
    for buckets in turns[:PASSES_MAX]:
        chosen = np.zeros(BUCKETS, np.bool_)
        chosen[buckets] = True
        found.add(pa.concat_tables([_held(source, chosen, 1), _held(target, chosen, -1)]))
    return found.result(sizes, whole=len(turns) <= PASSES_MAX)


def _summed(side: Side) -> _Sums:
    found = _Sums(np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.uint64))
    for rows in side.rows():
        bucket = _bucket(fingerprints(rows.key))
        found.count[:] += np.bincount(bucket, minlength=BUCKETS)
        np.add.at(found.total, bucket, fingerprints(rows.row))
    return found


def _bucket(keys: Prints) -> Buckets:
    return (keys & np.uint64(BUCKETS - 1)).astype(np.int64)


def _turns(buckets: Buckets, sizes: Buckets) -> Iterator[Buckets]:
    """Buckets in order, as many at once as may be held; one that is larger than that comes alone."""
    begin, held = 0, 0
    for end, size in enumerate(sizes.tolist()):
        if end > begin and held + size > ROWS_HELD_MAX:
            yield buckets[begin:end]
            begin, held = end, 0
        held += size
    if begin < len(buckets):
        yield buckets[begin:]


def _held(side: Side, chosen: npt.NDArray[np.bool_], sign: int) -> pa.Table:
    parts = [_none()]
    for rows in side.rows():
        keys = fingerprints(rows.key)
        wanted = chosen[_bucket(keys)]
        if wanted.any():
            mask = pa.array(wanted)
            columns = [pa.array(keys[wanted]), pa.array(fingerprints(rows.row.filter(mask))), rows.key.filter(mask)]
            signs = pa.repeat(pa.scalar(sign, pa.int64()), len(columns[0]))
            parts.append(pa.table([*columns, signs], schema=_SCHEMA))
    return pa.concat_tables(parts)


_SCHEMA = pa.schema([("key", pa.uint64()), ("row", pa.uint64()), ("text", pa.large_string()), ("side", pa.int64())])


def _none() -> pa.Table:
    return _SCHEMA.empty_table()


class _Found:
    """What was found so far."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("missing", "extra", "different"), 0)
        self._keys: dict[str, list[str]] = {name: [] for name in self._counts}

    def add(self, held: pa.Table) -> None:
        """Rows of both sides: `side` is 1 for the source, -1 for the target."""
        net = held.group_by(["key", "row"]).aggregate([("side", "sum"), ("text", "min")])
        net = net.filter(pc.not_equal(net["side_sum"], 0))
        more = pc.if_else(pc.greater(net["side_sum"], 0), net["side_sum"], 0)
        less = pc.if_else(pc.less(net["side_sum"], 0), pc.negate(net["side_sum"]), 0)
        keys = pa.table([net["key"], net["text_min"], more, less], names=["key", "text", "more", "less"])
        keys = keys.group_by("key").aggregate([("more", "sum"), ("less", "sum"), ("text", "min")])
        both = pc.min_element_wise(keys["more_sum"], keys["less_sum"])
        self._note("different", keys["text_min"], both)
        self._note("missing", keys["text_min"], pc.subtract(keys["more_sum"], both))
        self._note("extra", keys["text_min"], pc.subtract(keys["less_sum"], both))

    def _note(self, name: str, texts: pa.ChunkedArray, counts: pa.ChunkedArray) -> None:
        self._counts[name] += pc.sum(counts).as_py() or 0
        kept = self._keys[name]
        kept += texts.filter(pc.greater(counts, 0)).slice(0, KEYS_KEPT_MAX - len(kept)).to_pylist()

    def result(self, sizes: tuple[int, int], *, whole: bool) -> Difference:
        """All of it."""
        missing, extra, different = (
            Odd(self._counts[name], tuple(sorted(self._keys[name]))) for name in ("missing", "extra", "different")
        )
        return Difference(*sizes, missing, extra, different, whole)
