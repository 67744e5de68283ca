"""Two sides of a table, compared in bounded memory: sums by bucket, then the rows of the buckets that differ.

    pass 1    every row: fingerprints of key and row; bucket = low bits of the key's, and range of the key where it has an integer (`ranges`).
              Of each bucket and range: how many rows, and the sum of their fingerprints
    pass 2    only where count or sum differ: both sides are asked for the ranges that differ (for all, where there are none), and of what they give
              the rows of buckets that differ are held: both sides as multisets, what is left is different

A table that is equal is read once. A key is missing when only the source has it, extra when only the target has it, different when both have it with
other values. A table without a key is compared as a multiset: there each row is its own key.

Memory: two numbers for each bucket, range and side, one piece of rows, and what `held` allows. When more differs, pass 2 is made again for what did
not fit, PASSES_MAX times; beyond that the counts are lower limits (`whole` is False): a table in which so much differs needs no list of keys. Two
different rows have the same fingerprint once in 2**64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.verify.fingerprints import Prints, fingerprints
from workers.verify.held import EVERY_KEY, Held
from workers.verify.ranges import COUNT_MAX, Places, Ranges, Span

BUCKETS = 1 << 16  # of ten million rows each has 150; the sums of both sides are 2 MB, and as much for ranges
PASSES_MAX = 4
KEYS_KEPT_MAX = 1000  # of each sort; counted are all

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts of some rows: what identifies each, and the whole of it; `place` is the key's integer (int64), if it has one."""

    key: pa.Array
    row: pa.Array
    place: pa.Array | None = None


class Side(Protocol):
    """One side of a table."""

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[Rows]:
        """All rows, or those of some spans, from the beginning; the same ones each time."""


@dataclass(frozen=True, slots=True)
class Odd:
    """Rows that are not as they should be: how many, and the keys of the first ones as joined texts."""

    count: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs. `whole`: every bucket that differs was looked at. `spans`: where, if the key has ranges."""

    source_rows: int
    target_rows: int
    missing: Odd = Odd()
    extra: Odd = Odd()
    different: Odd = Odd()
    whole: bool = True
    spans: tuple[Span, ...] = ()

    @property
    def equal(self) -> bool:
        """True when the two sides are the same."""
        return self.whole and not (self.missing.count or self.extra.count or self.different.count)


class _Sums:
    """How many rows are in each bucket, and the sums of their fingerprints."""

    def __init__(self, buckets: int) -> None:
        self.count = np.zeros(buckets, np.int64)
        self._total = np.zeros(buckets, np.uint64)

    def add(self, buckets: Places, prints: Prints) -> None:
        self.count += np.bincount(buckets, minlength=len(self.count))
        np.add.at(self._total, buckets, prints)

    def differ(self, other: _Sums) -> Flags:
        odd: Flags = (self.count != other.count) | (self._total != other._total)
        return odd


def compare(source: Side, target: Side, ranges: Ranges | None = None) -> Difference:
    """Read both sides, and what differs once more. With `ranges` each row has its place."""
    ours, theirs = _summed(source, ranges), _summed(target, ranges)
    sizes = int(ours[0].count.sum()), int(theirs[0].count.sum())
    odd = _OddPart(ours[0].differ(theirs[0]), ours[1].differ(theirs[1]), ranges)
    found, since = _Found(), 0 if odd.buckets.any() else EVERY_KEY
    for _ in range(PASSES_MAX):
        if since == EVERY_KEY:
            break
        held = Held(since)
        odd.read(source, held, 1)
        odd.read(target, held, -1)
        found.add(held.net())
        since = held.until
    return replace(found.result(sizes, whole=since == EVERY_KEY), spans=odd.spans)


def _summed(side: Side, ranges: Ranges | None) -> tuple[_Sums, _Sums]:
    """By bucket, and by range."""
    by_bucket, by_range = _Sums(BUCKETS), _Sums(COUNT_MAX)
    for rows in side.rows():
        prints = fingerprints(rows.row)
        by_bucket.add(_bucket(fingerprints(rows.key)), prints)
        if ranges is not None:
            by_range.add(ranges.of(rows.place), prints)
    return by_bucket, by_range


def _bucket(keys: Prints) -> Places:
    return (keys & np.uint64(BUCKETS - 1)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _OddPart:
    """Which buckets and ranges differ. A row that differs is in one of each."""

    buckets: Flags
    parts: Flags
    ranges: Ranges | None

    @property
    def spans(self) -> tuple[Span, ...]:
        """The ranges as keys; none where there are no ranges or nothing differs."""
        chosen = np.flatnonzero(self.parts)
        return self.ranges.spans(chosen) if self.ranges is not None and len(chosen) else ()

    def read(self, side: Side, held: Held, sign: int) -> None:
        for rows in side.rows(self.spans):
            keys = fingerprints(rows.key)
            wanted = self.buckets[_bucket(keys)]
            if self.ranges is not None:
                wanted &= self.parts[self.ranges.of(rows.place)]
            mask = pa.array(wanted)
            held.add(keys[wanted], rows.row.filter(mask), rows.key.filter(mask), sign)


class _Found:
    """What was found so far."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("missing", "extra", "different"), 0)
        self._keys: dict[str, list[str]] = {name: [] for name in self._counts}

    def add(self, net: pa.Table) -> None:
        """What `Held` has left: all rows of some keys."""
        more = pc.if_else(pc.greater(net["more"], 0), net["more"], 0)
        less = pc.if_else(pc.less(net["more"], 0), pc.negate(net["more"]), 0)
        keys = pa.table([net["key"], net["text"], more, less], names=["key", "text", "more", "less"])
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
