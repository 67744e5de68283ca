"""Ranges of an integer key, and the condition that asks for some of them (pure).

Integers have the same order in PostgreSQL, in Snowflake and here, so that a range is the same rows on both sides. Of other types that is not sure
(collations, the case of a uuid that somebody wrote into the target), and they have no ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

COUNT_MAX = 1 << 16  # of ten million rows each has 150
SPANS_MAX = 100  # of one statement

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """The keys from `first` to `last`, both included. None is no end; where there is no first one, NULL belongs to it."""

    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Ranges:
    """The keys from `least` to `greatest`, in at most COUNT_MAX ranges of one width. What is beyond them belongs to the outermost ones."""

    least: int
    greatest: int

    @property
    def width(self) -> int:
        """How many keys a range may have."""
        return (self.greatest - self.least) // COUNT_MAX + 1

    def of(self, keys: pa.Array) -> Places:
        """The range of each key (int64; NULL is in the first)."""
        values = np.clip(keys.fill_null(self.least).to_numpy(), self.least, self.greatest)
        beyond = values.view(np.uint64) - np.uint64(self.least % (1 << 64))  # modulo 2**64: never too large
        ranges: Places = (beyond // np.uint64(self.width)).astype(np.int64)
        return ranges

    def spans(self, chosen: Places) -> tuple[Span, ...]:
        """At most SPANS_MAX spans with all of these ranges (in order, not none); where they are more, with what is in the smallest gaps."""
        gaps = np.diff(chosen)
        cuts = np.flatnonzero(gaps > 1)
        cuts = np.sort(cuts[np.argsort(-gaps[cuts], kind="stable")[: SPANS_MAX - 1]])
        begins, ends = chosen[np.r_[0, cuts + 1]].tolist(), chosen[np.r_[cuts, len(chosen) - 1]].tolist()
        return tuple(self._span(begin, end) for begin, end in zip(begins, ends, strict=True))

    def _span(self, begin: int, end: int) -> Span:
        outermost = (self.greatest - self.least) // self.width
        first = None if begin == 0 else self.least + begin * self.width
        return Span(first, None if end == outermost else self.least + (end + 1) * self.width - 1)


def condition(spans: Sequence[Span]) -> str:
    """SQL of both sides, with `{0}` for the column."""
    return " OR ".join(f"({_within(span)})" for span in spans)


def _within(span: Span) -> str:
    match span:
        case Span(None, None):
            return "TRUE"
        case Span(None, last):
            return f"{{0}} <= {last} OR {{0}} IS NULL"
        case Span(first, None):
            return f"{{0}} >= {first}"
        case Span(first, last):
            return f"{{0}} BETWEEN {first} AND {last}"
