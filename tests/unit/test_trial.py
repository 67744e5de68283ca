"""The row that kills actors is found by halves: no innocent one is buried, and few actors die for it."""

import math
import signal

import pytest

from etl_supervisor.exits import Exit, crashed_by_itself
from etl_supervisor.ipc.messages import Segment
from etl_supervisor.model.burial import Bury
from workers.reader.trial import MEMORY_ROW_BYTES_MIN, POISON_KILLS, Trial


def segment(rows: int) -> Segment:
    return Segment(1, 1, 0, 1, 100, rows, "", "", 1)


def court(rows: int, poison: set[int], *, deadly_values: bool = False) -> tuple[list[int], list[int], int, Bury]:
    """Try a segment: rows that passed, rows that were buried, deaths, and how the last one was buried."""
    trial, passed, buried, deaths, how = Trial(1), [], [], 0, Bury.NO
    for _ in range(1000):
        piece = trial.piece(segment(rows))
        trial.begun = True
        those = range(piece.start, piece.start + piece.rows)
        deadly = poison & set(those) and (piece.bury is Bury.NO or (piece.bury is Bury.WHOLE and deadly_values))
        if deadly:
            deaths += 1
            trial.killed()
            continue
        (passed if piece.bury is Bury.NO else buried).extend(those)
        how = piece.bury
        if trial.passed():
            return passed, buried, deaths, how
    raise AssertionError("no end")


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 200, 1000])
def test_one_bad_row_is_found_wherever_it_stands(rows: int) -> None:
    for bad in {0, rows // 2, rows - 1}:
        passed, buried, deaths, _ = court(rows, {bad})
        assert buried == [bad]
        assert passed == [row for row in range(rows) if row != bad], "in order, each once"
        assert deaths <= math.ceil(math.log2(rows)) + POISON_KILLS if rows > 1 else deaths == POISON_KILLS


def test_several_bad_rows_are_found() -> None:
    passed, buried, _, _ = court(50, {3, 4, 49})
    assert buried == [3, 4, 49]
    assert len(passed) == 47


def test_what_is_guilty_by_its_sisters_innocence_is_cut_without_another_death() -> None:
    _, _, deaths, _ = court(64, {63})
    assert deaths == 1 + POISON_KILLS


def test_a_row_whose_values_kill_in_the_dead_letter_too_goes_there_without_them() -> None:
    passed, buried, deaths, how = court(1, {0}, deadly_values=True)
    assert (passed, buried, how) == ([], [0], Bury.BARE)
    assert deaths == POISON_KILLS + 1


def test_a_death_before_the_actor_has_begun_says_nothing() -> None:
    trial = Trial(1)
    before = trial.piece(segment(10))
    trial.killed()
    assert trial.piece(segment(10)) == before


@pytest.mark.parametrize(("size", "deaths"), [(MEMORY_ROW_BYTES_MIN, POISON_KILLS), (MEMORY_ROW_BYTES_MIN - 1, None)])
def test_want_of_memory_cuts_a_piece_and_condemns_none_but_a_large_row(size: int, deaths: int | None) -> None:
    trial = Trial(1)
    for rows in (4, 2, 1):
        assert trial.piece(segment(4)).rows == rows
        trial.begun, trial.size = True, size
        trial.killed(memory=True)
    for _ in range(50):
        if trial.piece(segment(4)).bury is not Bury.NO:
            break
        trial.begun = True
        trial.killed(memory=True)
    assert trial.piece(segment(4)).bury is (Bury.NO if deaths is None else Bury.WHOLE)
    assert trial.piece(segment(4)).kills == (deaths or 0)


@pytest.mark.parametrize(
    ("number", "counts"), [("SIGSEGV", True), ("SIGABRT", True), ("SIGKILL", False), ("SIGTERM", False)]
)
def test_deaths_from_outside_do_not_count(number: str, counts: bool) -> None:
    assert crashed_by_itself(-signal.Signals[number].value) is counts
    assert not crashed_by_itself(Exit.UNEXPECTED)
    assert crashed_by_itself(Exit.MEMORY)
