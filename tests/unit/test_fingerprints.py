"""Rows as texts, their fingerprints, and two sides compared by them."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from workers.verify import comparing, held
from workers.verify.comparing import Difference, Rows, compare
from workers.verify.fingerprints import NULL, SHORT_BYTES_MAX, fingerprints, joined, taken_apart
from workers.verify.ranges import COUNT_MAX, SPANS_MAX, Ranges, Span
from workers.verify.sides import integers

TEXTS = ["", "a", "b", "ab", "ba", "\0N", "é", "x" * SHORT_BYTES_MAX, "x" * (SHORT_BYTES_MAX + 1), "y" * 100_000]


@dataclass
class Pieces:
    """A side of some pieces of (key, row). Keys of one that is `placed` are integers, or NULL. `given` counts the rows that were read."""

    pieces: list[list[tuple[Any, str]]]
    placed: bool = False
    given: int = 0

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[Rows]:
        for whole in self.pieces:
            piece = [pair for pair in whole if not spans or any(covers(span, pair[0]) for span in spans)]
            self.given += len(piece)
            if piece:
                keys, rows = (pa.array(texts, pa.large_string()) for texts in zip(*piece, strict=True))
                yield Rows(keys.fill_null(NULL), rows, integers(keys) if self.placed else None)


def covers(span: Span, key: Any) -> bool:
    """As SQL has it."""
    if key is None:
        return span.first is None
    return (span.first is None or span.first <= int(key)) and (span.last is None or int(key) <= span.last)


def numbered(first: int, end: int) -> list[tuple[str, str]]:
    return [(str(number), f"{number} row") for number in range(first, end)]


def test_a_fingerprint_depends_on_the_text_and_not_on_its_neighbours():
    together = fingerprints(pa.array(TEXTS, pa.large_string()))
    assert len(set(together.tolist())) == len(TEXTS)
    alone = [fingerprints(pa.array([text], pa.large_string()))[0] for text in TEXTS]
    assert together.tolist() == [int(one) for one in alone]
    sliced = pa.array(["before", *TEXTS], pa.large_string()).slice(1)
    assert fingerprints(sliced).tolist() == together.tolist()


def test_bytes_that_rows_exchange_do_not_cancel_out():
    one, other = (fingerprints(pa.array(rows, pa.large_string())) for rows in (["ab", "cd"], ["ad", "cb"]))
    assert np.add.reduce(one) != np.add.reduce(other)


def test_cells_come_back_from_a_joined_text():
    cells = [pa.array(["a,b", None, ""]), pa.array([None, "N", "\\N"])]
    assert [taken_apart(text) for text in joined(cells, 3).to_pylist()] == [["a,b", None], [None, "N"], ["", "\\N"]]


def test_rows_in_any_order_and_pieces_are_equal():
    rows = numbered(0, 1000)
    found = compare(Pieces([rows[:10], rows[10:]]), Pieces([rows[:500:-1], rows[500::-1]]))
    assert (found.equal, found.source_rows, found.target_rows) == (True, 1000, 1000)


def test_missing_extra_and_different_keys_are_told_apart():
    rows = numbered(0, 1000)
    theirs = [("5", "other"), *rows[6:], ("new", "row")]
    found = compare(Pieces([rows[3:]]), Pieces([theirs]))
    assert (found.missing.keys, found.extra.keys, found.different.keys) == (("3", "4"), ("new",), ("5",))


def test_equal_rows_are_counted():
    found = compare(Pieces([[("a", "a")] * 3]), Pieces([[("a", "a")] * 5]))
    assert (found.extra.count, found.extra.keys, found.missing.count, found.equal) == (2, ("a",), 0, False)


def test_what_is_too_much_to_hold_is_looked_at_in_passes_and_then_no_more(monkeypatch: pytest.MonkeyPatch):
    rows = numbered(0, 1000)
    sides = Pieces([rows[:400], rows[400:]]), Pieces([[(key, "other") for key, _ in rows[:700]], [("new", "row")]])
    monkeypatch.setattr(held, "LOOSE_BYTES_MAX", 1000)
    monkeypatch.setattr(held, "BYTES_MAX", 20_000)  # a row is 36
    found = compare(*sides)
    assert (found.missing.count, found.extra.count, found.different.count, found.whole) == (300, 1, 700, True)
    assert sides[0].given > 2000
    monkeypatch.setattr(held, "BYTES_MAX", 5_000)
    found = compare(*sides)
    assert 100 < found.missing.count + found.different.count < 900
    assert found.extra.count <= 1
    assert not found.whole
    assert not found.equal


def test_one_key_that_is_too_much_to_hold_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "BYTES_MAX", 5_000)
    found = compare(Pieces([[("a", f"{number}") for number in range(1000)]]), Pieces([]))
    assert (found.missing.count, found.whole, found.equal) == (0, False, False)


def test_one_key_that_is_the_lowest_and_too_much_to_hold_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "BYTES_MAX", 5_000)
    keys, rows = (pa.array(texts, pa.large_string()) for texts in (["a"] * 1000, map(str, range(1000))))
    found = held.Held(0)
    found.add(np.zeros(1000, np.uint64), rows, keys, 1)
    assert found.net().num_rows == 0


def test_of_a_long_key_the_beginning_is_kept():
    found = compare(Pieces([[("é" * 1001, "a"), ("é" * 1000, "b")]]), Pieces([]))
    assert found.missing.keys == ("é" * 1000, "é" * 1000 + "…")


@pytest.mark.parametrize(
    ("least", "greatest"), [(5, 5), (0, 99), (-70_000, 200_000), (-(1 << 63), (1 << 63) - 1), (-3, (1 << 63) - 1)]
)
def test_a_span_is_the_rows_of_its_ranges(least: int, greatest: int):
    ranges, chance = Ranges(least, greatest), random.Random(5)
    ends = [edge for of in (least, greatest) for edge in (of - 1, of, of + 1) if -(1 << 63) <= edge < 1 << 63]
    keys = [None, *ends, *(chance.randint(least, greatest) for _ in range(3000))]
    keys += [key + ranges.width for key in keys[-1000:] if key + ranges.width < 1 << 63]
    found = ranges.of(pa.array(keys, pa.int64()))
    assert found.min() == 0
    assert found.max() < COUNT_MAX
    for count in (1, 2, 50, 3000):
        chosen = np.unique(chance.sample(found.tolist(), count))
        spans = ranges.spans(chosen)
        assert len(spans) <= SPANS_MAX
        inside = np.array([any(covers(span, key) for span in spans) for key in keys])
        assert inside[np.isin(found, chosen)].all()
        if len(chosen) <= SPANS_MAX:
            assert (inside == np.isin(found, chosen)).all()


def test_of_too_many_ranges_those_that_are_near_are_asked_for_together():
    chosen = np.concatenate([np.arange(0, 1000, 2), np.array([30_000, 60_000])])
    spans = Ranges(0, COUNT_MAX - 1).spans(chosen)
    assert len(spans) == SPANS_MAX
    assert spans[-2:] == (Span(30_000, 30_000), Span(60_000, 60_000))


def test_only_ranges_that_differ_are_read_again():
    rows = [(number, f"{number} row") for number in range(0, 600_000, 3)]
    theirs = [*rows[1:5], *rows[6:70_000], (210_000, "other"), *rows[70_001:], (None, "nobody's"), (1 << 40, "new")]
    sides = Pieces([[(str(key), row) for key, row in rows]], placed=True), Pieces([theirs], placed=True)
    sides[1].pieces = [[(None if key is None else str(key), row) for key, row in theirs]]
    found = compare(*sides, Ranges(0, rows[-1][0]))
    assert (found.missing.keys, found.different.keys) == (("0", "15"), ("210000",))
    assert (found.extra.keys, found.source_rows, found.target_rows) == ((NULL, str(1 << 40)), 200_000, 200_000)
    assert 200_000 < sides[0].given < 200_020
    assert 200_000 < sides[1].given < 200_020


def test_of_what_is_read_between_ranges_that_differ_little_is_held(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comparing, "BUCKETS", 256)  # half of them differ
    monkeypatch.setattr(held, "BYTES_MAX", 40_000)  # 1000 rows
    monkeypatch.setattr(held, "LOOSE_BYTES_MAX", 4_000)
    rows = numbered(0, 20_000)
    theirs = [row for number, row in enumerate(rows) if number % 100 != 7]
    sides = Pieces([rows], placed=True), Pieces([theirs], placed=True)
    found = compare(*sides, Ranges(0, 19_999))
    assert (found.missing.count, found.whole) == (200, True)
    assert 30_000 < sides[0].given <= 40_000


def test_integers_that_only_a_target_can_hold_are_the_last_ones():
    assert integers(pa.array(["9" * 19, None, "-" + "9" * 19, "7"])).to_pylist() == [(1 << 63) - 1, None, -(1 << 63), 7]


@dataclass
class Repeated:
    """Pieces of equal rows: each piece's text, as key and row, and how many. In one that is `numbered` pieces are not equal."""

    pieces: list[tuple[str, int]]
    numbered: bool = False

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[Rows]:
        for number, (text, count) in enumerate(self.pieces):
            piece = pa.repeat(pa.scalar(f"{number if self.numbered else ''}{text}", pa.large_string()), count)
            yield Rows(piece, piece)


def grown(source: Repeated, target: Repeated) -> tuple[Difference, int]:
    """What is found, and by how many MiB this process grew at its peak."""
    compare(Repeated([("a", 1)]), Repeated([("b", 1)]))
    before = peak_mb()
    found = compare(source, target)
    return found, peak_mb() - before


def peak_mb() -> int:
    """ru_maxrss would be the parent's, too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10


MILLIONS = [("one of two million", 250_000)] * 8
LARGE = Repeated([("x" * 2_000_000, 1)] * 100, numbered=True)
MB_MAX = 120


@pytest.mark.parametrize(
    ("source", "target", "missing", "extra"),
    [
        (Repeated(MILLIONS), Repeated([*MILLIONS, ("one of two million", 1)]), 0, 1),
        (LARGE, Repeated(LARGE.pieces[:-1], numbered=True), 1, 0),
        (LARGE, Repeated([("y" * 4000, 500)] * 20, numbered=True), 100, 10_000),
    ],
    ids=["equal", "large", "both"],
)
def test_neither_equal_rows_nor_large_ones_need_memory(source: Any, target: Any, missing: int, extra: int):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found, mb = pool.submit(grown, source, target).result()
    assert (found.missing.count, found.extra.count, found.whole) == (missing, extra, True)
    assert mb < MB_MAX
