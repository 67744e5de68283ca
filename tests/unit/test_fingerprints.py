"""Rows as texts, their fingerprints, and two sides compared by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from workers.verify import comparing
from workers.verify.comparing import Rows, compare
from workers.verify.fingerprints import SHORT_BYTES_MAX, fingerprints, joined, taken_apart

TEXTS = ["", "a", "b", "ab", "ba", "\0N", "é", "x" * SHORT_BYTES_MAX, "x" * (SHORT_BYTES_MAX + 1), "y" * 100_000]


@dataclass
class Pieces:
    """A side of some pieces of (key, row)."""

    pieces: list[list[tuple[str, str]]]

    def rows(self) -> Iterator[Rows]:
        for piece in self.pieces:
            keys, rows = (pa.array(texts, pa.large_string()) for texts in zip(*piece, strict=True))
            yield Rows(keys, rows)


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


def test_what_is_too_much_to_hold_is_looked_at_in_turns_and_then_no_more(monkeypatch: pytest.MonkeyPatch):
    rows = numbered(0, 1000)
    monkeypatch.setattr(comparing, "ROWS_HELD_MAX", 300)
    found = compare(Pieces([rows]), Pieces([[]][:0]))
    assert (found.missing.count, found.whole) == (1000, True)
    monkeypatch.setattr(comparing, "ROWS_HELD_MAX", 100)
    found = compare(Pieces([rows]), Pieces([[]][:0]))
    assert 300 <= found.missing.count <= 400
    assert not found.whole
    assert not found.equal
