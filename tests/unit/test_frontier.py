"""What may be confirmed, and how far a table's rows are complete."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.reader.frontier import Frontier

A, B = 1, 2


def test_nothing_before_the_oldest_open_segment_is_held_back():
    frontier = Frontier(50)
    frontier.sealed(100, [])
    frontier.sealed(None, [(A, 1)])
    frontier.sealed(180, [])
    frontier.sealed(260, [(A, 2), (B, 1)])
    assert frontier.durable == 100
    frontier.completed(A, 1)
    assert frontier.durable == 180
    frontier.completed(A, 2)
    assert frontier.durable == 180
    frontier.completed(B, 1)
    assert frontier.durable == 260
    assert not frontier.in_flight


def test_one_tables_fence_does_not_wait_for_another_table():
    frontier = Frontier(0)
    frontier.sealed(100, [(A, 1)])
    frontier.sealed(200, [(B, 1)])
    frontier.completed(B, 1)
    assert (frontier.fence(A), frontier.fence(B), frontier.durable) == (0, 200, 0)


def test_a_batch_in_the_middle_of_a_transaction_confirms_only_what_ended_before():
    frontier = Frontier(10)
    frontier.sealed(None, [(A, 1)])
    frontier.completed(A, 1)
    assert frontier.durable == 10
    frontier.sealed(90, [(A, 2)])
    frontier.completed(A, 2)
    assert frontier.durable == 90


def test_a_held_table_pins_the_source_and_no_other_table():
    frontier = Frontier(0)
    frontier.sealed(100, [(A, 1), (B, 1)])
    frontier.completed(A, 1)
    frontier.completed(B, 1)
    frontier.sealed(200, [(A, 2)])
    frontier.hold(A)
    frontier.sealed(300, [(A, 3), (B, 2)])
    frontier.completed(B, 2)
    assert (frontier.durable, frontier.fence(A), frontier.fence(B)) == (100, 100, 300)
    assert not frontier.in_flight


def test_an_idle_source_confirms_the_walsenders_position():
    frontier = Frontier(100)
    frontier.idle(500)
    assert (frontier.durable, frontier.fence(A)) == (500, 500)
    frontier.idle(400)
    assert frontier.durable == 500


def test_an_end_before_one_that_was_seen_is_a_fault():
    frontier = Frontier(100)
    with pytest.raises(AssertionError):
        frontier.sealed(99, [])


@given(st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from([A, B]))), max_size=30), st.randoms())
def test_durable_only_rises_and_is_exact(batches, chance):
    frontier, end, seqs = Frontier(0), 0, {A: 0, B: 0}
    ends, open_segments = [], []
    for number, (commits, tables) in enumerate(batches):
        segments = []
        for table in tables:
            seqs[table] += 1
            segments.append((table, seqs[table]))
            open_segments.append((number, table, seqs[table]))
        end += 10
        ends.append((number, end if commits else None))
        frontier.sealed(end if commits else None, segments)
    before = frontier.durable
    while open_segments:
        _, table, seq = chance.choice(open_segments)
        frontier.completed(table, seq)
        open_segments = [item for item in open_segments if item[1] != table or item[2] > seq]
        oldest = min((number for number, _, _ in open_segments), default=len(batches))
        expected = max([e for number, e in ends if e is not None and number < oldest], default=0)
        assert before <= frontier.durable == expected
        before = frontier.durable


def test_the_oldest_batch_of_a_pipeline_is_that_of_its_tables_and_before_all_others_when_one_is_held():
    frontier = Frontier(10)
    assert frontier.oldest([1, 2]) is None
    frontier.sealed(20, [(1, 1)])
    frontier.sealed(30, [(2, 1), (1, 2)])
    assert (frontier.oldest([1]), frontier.oldest([2]), frontier.oldest([1, 2])) == (1, 2, 1)
    frontier.completed(1, 2)
    assert (frontier.oldest([1]), frontier.oldest([1, 2])) == (None, 2)
    frontier.hold(2)
    assert frontier.oldest([1, 2]) == 0
    frontier.forget(2)
    assert frontier.oldest([1, 2]) is None
