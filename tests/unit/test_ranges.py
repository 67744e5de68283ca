"""Which pages are still to be copied, and which copies go together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.copy_state import CopiedRange, CopyState, merged
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus, Source, SourceSpec
from etl_supervisor.model.table import TableName
from etl_supervisor.supervision.decide import SMALL_TABLE_BYTES, TABLES_PER_WORKER_MAX, copies
from workers.reader.ranges import AGE_MAX, Leaf, Range, plan, seen_again, still_good

NAME = TableName("public", "t")
LEAF = Leaf(1, NAME, 10, 100, 5_000)


def done(first: int, end: int, seen: int = 7, oid: int = 1, file: int = 10) -> CopiedRange:
    return CopiedRange(oid, file, first, end, seen, rows=end - first)


def test_a_new_table_is_cut_into_ranges_that_cover_it_once():
    assert plan([LEAF], (), 40) == [Range(LEAF, 0, 40), Range(LEAF, 40, 80), Range(LEAF, 80, 100)]
    assert plan([Leaf(1, NAME, 10, 0, 0)], (), 40) == []


def test_what_has_no_pages_is_read_whole():
    foreign = Leaf(2, NAME, 0, None, 0)
    assert plan([foreign, LEAF], (), 1000) == [Range(foreign), Range(LEAF, 0, 100)]
    assert Range(foreign).finished(7, 1) == []


def test_finished_ranges_are_looked_at_for_changes_only():
    good = (done(0, 40), done(60, 80))
    assert plan([LEAF], good, 40) == [
        Range(LEAF, 0, 40, since=7),
        Range(LEAF, 60, 80, since=7),
        Range(LEAF, 40, 60),
        Range(LEAF, 80, 100),
    ]


def test_a_table_that_shrank_has_nothing_left_beyond_its_end():
    small = Leaf(1, NAME, 10, 50, 0)
    assert plan([small], (done(0, 40), done(60, 80)), 40) == [
        Range(small, 0, 40, since=7),
        Range(small, 60, 80, since=7),
        Range(small, 40, 50),
    ]


def test_ranges_count_for_one_file_and_not_for_ever():
    known = [done(0, 10), done(0, 10, file=11, oid=2), done(20, 30, seen=7 + AGE_MAX)]
    other = Leaf(2, NAME, 12, 10, 0)
    assert still_good(known, [LEAF, other], 8) == (done(0, 10),)
    assert still_good(known, [LEAF, other], 7 + AGE_MAX) == (done(20, 30, seen=7 + AGE_MAX),)
    assert still_good(known, [], 8) == ()


def test_neighbours_of_one_snapshot_become_one_range():
    assert merged([done(10, 20), done(0, 10), done(20, 30, seen=8)]) == (done(0, 20), done(20, 30, seen=8))
    assert seen_again((done(0, 20), done(20, 30, seen=8)), Range(LEAF, 0, 20, since=7), 8) == (done(0, 30, seen=8),)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=8), st.integers(1, 50))
def test_every_page_is_either_finished_or_read_again_exactly_once(pieces, pages_max):
    good: tuple[CopiedRange, ...] = ()
    for first, pages in pieces:
        taken = {page for item in good for page in range(item.first, item.end)}
        if not taken & set(range(first, first + pages)):
            good = merged([*good, done(first, first + pages)])
    wanted = plan([LEAF], good, pages_max)
    fresh = [page for item in wanted if item.since is None for page in range(item.first, item.end or 0)]
    seen = [page for item in wanted if item.since is not None for page in range(item.first, item.end or 0)]
    assert sorted(fresh) == sorted(set(range(100)) - set(seen))
    assert len(set(seen)) == len(seen) == sum(item.pages for item in good)


def test_the_pace_is_that_of_the_worker_that_reports():
    state = CopyState(NAME, 1, ranges=(done(0, 50),), pages_total=100, began=100.0, began_rows=30, began_pages=30)
    assert (state.rows_per_second, state.seconds_left) == (0.0, None)
    state = CopyState(
        NAME, 1, ranges=(done(0, 50),), pages_total=100, began=100.0, began_rows=30, began_pages=30, reported_at=110.0
    )
    assert (state.done, state.rows_per_second, state.seconds_left) == (0.5, 2.0, 25.0)


def reader(workers_max: int) -> dict[str, SourceSpec]:
    there = Destination(1, "d", "snowflake", "a", "u", "db", "s", None, None, "k", None, None, "l", 1.0)
    pipeline = Pipeline(1, "p", 1, there, PipelineStatus.START, 1, 1, 1, 1, workers_max)
    return {"shop": SourceSpec(Source(1, "shop", "h", 1, "d", "u", None, "disable", None, "p", 1), (pipeline,))}


def wanted(number: int, size: int = 0, pipeline: int = 1) -> CopyWanted:
    return CopyWanted("shop", pipeline, "public", f"t{number}", 1, 1, size)


def test_small_tables_that_wait_share_a_worker_and_large_ones_do_not():
    large = [wanted(number, SMALL_TABLE_BYTES + 1) for number in (2, 4, 6)]
    small = [wanted(number) for number in (1, 3, 5)]
    asked = sorted([*large, *small], key=lambda copy: copy.table)
    decided = copies(asked, reader(3), [])
    assert decided.start == (tuple(small), (large[0],), (large[1],))
    assert decided.wait == (large[2],)


def test_a_worker_takes_so_many_tables_and_not_more():
    asked = [wanted(number) for number in range(TABLES_PER_WORKER_MAX + 1)]
    assert [len(group) for group in copies(asked, reader(4), []).start] == [TABLES_PER_WORKER_MAX, 1]
    assert [len(group) for group in copies(asked, reader(1), []).start] == [TABLES_PER_WORKER_MAX]


def test_copies_wait_for_a_worker_and_for_their_own_table():
    running = [(wanted(1), wanted(2))]
    assert copies([wanted(3)], reader(1), running).wait == (wanted(3),)
    assert copies([wanted(3), wanted(2)], reader(2), running).start == ((wanted(3),),)
    assert copies([wanted(2)], reader(2), running).wait == (wanted(2),)
    assert copies([wanted(2)], reader(1), [()]).start == ((wanted(2),),)


def test_a_copy_that_no_reader_wants_is_forgotten():
    decided = copies([wanted(1, pipeline=2)], reader(1), [])
    assert (decided.start, decided.wait) == ((), ())
    assert copies([wanted(1)], {}, []).wait == ()
