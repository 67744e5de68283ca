"""The apply block on a real connector: random histories, cut at random fences, equal what a plain model says."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, TEXT, History, insert, opening
from workers.snowflake import ddl, dead_letter
from workers.snowflake import target as target_of_keys
from workers.snowflake.apply import apply
from workers.snowflake.dead_letter import DeadRow
from workers.snowflake.identifiers import objects_of
from workers.snowflake.limits import Verdict
from workers.snowflake.replay import Outcome, listed, replay
from workers.snowflake.sftypes import LANDING_META
from workers.snowflake.window import Window


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def target(session: Any, destination: Destination) -> dict[int, tuple[Any, ...]]:
    with session.cursor() as cursor:
        cursor.execute(f"SELECT K, A, BIG, OTHER FROM {objects_of(destination, TABLE).target_sql}")
        return {int(k): (int(a), big, other) for k, a, big, other in cursor.fetchall()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(6))
def test_windows_of_any_size_give_what_the_source_has(session: Any, destination: Destination, seed: int) -> None:
    history = History(random.Random(seed))
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    for _ in range(8):
        for _ in range(history.chance.randint(1, 12)):
            fence = history.transaction()
        if history.landed:
            insert(session, destination, history.landed)
            history.landed.clear()
        mark = apply(session, it, mark, fence)
        assert mark.applied == fence
        assert target(session, destination) == history.rows


def test_a_block_that_comes_twice_or_too_late_does_nothing(session: Any, destination: Destination) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    moved = apply(session, it, mark, 20)
    with session.cursor() as cursor:
        cursor.execute(f"UPDATE {objects_of(destination, TABLE).target_sql} SET A = 99")
    assert apply(session, it, mark, 20) == moved
    assert target(session, destination) == {1: (99, "x", None)}


def test_blocks_at_the_same_moment_apply_once(destination: Destination, session: Any) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(8)])
    found = []

    def run() -> None:
        with sql_session(destination) as other:
            found.append(apply(other, it, mark, 20).applied)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert len(target(session, destination)) == 8


def test_an_older_readers_apply_is_refused(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    newer = opening(destination, epoch=2)
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    apply(session, newer, mark, 15)
    insert(session, destination, [("D", 100, 16, 1, 0, None, None, 1, None, None, None)])
    current = replace(mark, applied=15)
    assert apply(session, opening(destination, epoch=1), current, 20).applied == 15
    assert target(session, destination) == {1: (1, "x", None)}


def test_what_a_newer_reader_has_opened_is_closed_to_the_older_one(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    newer = opening(destination, epoch=2)
    assert ddl.ensure(session, newer).watermark.applied == 0
    assert apply(session, opening(destination, epoch=1), mark, 20).applied == 0
    assert target(session, destination) == {}
    with pytest.raises(EtlError, match="epoch 1 is not the newest \\(2\\)"):
        ddl.ensure(session, opening(destination, epoch=1))
    assert apply(session, newer, mark, 20).applied == 20


def test_a_new_generation_replaces_the_target(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(5)])
    apply(session, opening(destination), mark, 20)
    later = opening(destination, generation=200)
    mark = ddl.ensure(session, later).watermark
    assert (mark.generation, mark.applied) == (200, 0)
    insert(session, destination, [("R", 200, 9, 1, n, None, None, n, 2, "y", None) for n in range(2)])
    apply(session, later, mark, 10)
    assert target(session, destination) == {0: (2, "y", None), 1: (2, "y", None)}


def test_another_owner_of_the_same_landing_table_is_refused(session: Any, destination: Destination) -> None:
    ddl.ensure(session, opening(destination))
    with pytest.raises(EtlError) as caught:
        ddl.ensure(session, opening(destination, pipeline_id=2, pipeline="other"))
    assert caught.value.line == (
        "destination_setup at pipeline other, table public.things: LANDING_THINGS belongs to table public.things of pipeline pipe"
        " (use another landing schema and schema for this pipeline)"
    )


def test_a_column_added_with_a_default_reaches_old_rows(session: Any, destination: Destination) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    mark = apply(session, opening(destination), mark, 12)
    insert(session, destination, [("I", 100, 13, 1, 0, None, None, 2, 1, "x", None)])
    grown = replace(
        TABLE, columns=(*TABLE.columns, Column("price", ValueType(ValueKind.NUMERIC, 10, 2), default="1.50")), version=1
    )
    it = opening(destination, table=grown)
    ddl.ensure(session, it)
    apply(session, it, mark, 20)
    with session.cursor() as cursor:
        rows = cursor.execute(f"SELECT K, PRICE FROM {objects_of(destination, TABLE).target_sql} ORDER BY K").fetchall()
    assert [(int(k), str(price)) for k, price in rows] == [(1, "1.50"), (2, "1.50")]


def test_a_default_that_its_column_can_not_hold_is_kept_as_text_in_old_rows(
    session: Any, destination: Destination
) -> None:
    mark = ddl.ensure(session, opening(destination)).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    mark = apply(session, opening(destination), mark, 12)
    insert(session, destination, [("I", 100, 13, 1, 0, None, None, 2, 1, "x", None)])
    added = (
        Column("until", ValueType(ValueKind.DATE), default="infinity"),
        Column("price", ValueType(ValueKind.NUMERIC, 10, 2), default="NaN"),
        Column("doc", ValueType(ValueKind.JSON), default="1" * 40),
    )
    it = opening(destination, table=replace(TABLE, columns=(*TABLE.columns, *added), version=1))
    ddl.ensure(session, it)
    apply(session, it, mark, 20)
    with session.cursor() as cursor:
        rows = cursor.execute(
            f"SELECT UNTIL, PRICE, DOC, _ETL_SPECIAL FROM {objects_of(destination, TABLE).target_sql} ORDER BY K"
        ).fetchall()
    for until, price, doc, special in rows:
        assert (until, price, json.loads(doc)) == (None, None, "1" * 40)
        assert json.loads(special) == {"until": "infinity", "price": "NaN"}
    assert len(rows) == 2


def test_names_that_can_not_be_are_refused(session: Any, destination: Destination) -> None:
    twice = replace(TABLE, columns=(*TABLE.columns, Column("BIG", TEXT)))
    with pytest.raises(EtlError, match="columns big and BIG are both BIG in Snowflake"):
        ddl.ensure(session, opening(destination, table=twice))
    ours = replace(TABLE, columns=(*TABLE.columns, Column("_etl_op", TEXT)))
    with pytest.raises(EtlError, match="which is the system's own"):
        ddl.ensure(session, opening(destination, table=ours))


# -- rows that are in the dead letter


def bury(session: Any, destination: Destination, row: tuple[Any, ...], *, whole: bool = True) -> None:
    """A row of `insert` goes to the dead letter instead."""
    op, generation, commit, lsn, index, unchanged, old, k, *_ = row
    names = [name for name, _ in LANDING_META] + ["K", "A", "BIG", "OTHER"]
    payload = dict.fromkeys(names) | {"_ETL_OP": op, "_ETL_GENERATION": generation, "_ETL_COMMIT_LSN": commit}
    payload |= {"_ETL_LSN": lsn, "_ETL_INDEX": index, "_ETL_UNCHANGED": unchanged, "_ETL_OLD_KEY": old}
    payload |= dict(zip(("K", "A", "BIG", "OTHER"), row[7:], strict=True))
    dead = DeadRow(
        Position(generation, commit, lsn, index),
        op,
        json.dumps({"k": k}),
        Verdict("refused", None, 0),
        json.dumps(payload),
        None if whole else "{}",
        unchanged,
        None,
    )
    assert dead_letter.write(session, opening(destination), [dead]) == 1


CREATED = ("I", 100, 10, 1, 0, None, None, 1, 1, "old", "o")
DEAD_UPDATE = ("U", 100, 30, 1, 0, '["other"]', None, 1, 2, "dead", None)
LEAVES_OUT = ("U", 100, 32, 1, 0, '["big","other"]', None, 1, 3, None, None)
BRINGS = ("U", 100, 34, 1, 0, '["other"]', None, 1, 4, "new", None)
MOVED = [
    ("D", 100, 34, 1, 0, None, None, 1, None, None, None),
    ("I", 100, 34, 1, 1, '["big"]', '{"k":"1"}', 2, 4, None, "p"),
]


@pytest.fixture(params=["one window", "windows of their own"])
def after(request: pytest.FixtureRequest, session: Any, destination: Destination) -> Callable[..., dict[int, Any]]:
    """The target after landing rows; a row that begins with 'dead' is buried."""
    it = opening(destination)
    marks = [ddl.ensure(session, it).watermark]

    def show(*rows: Any) -> dict[int, tuple[Any, ...]]:
        for number, row in enumerate(rows):
            if row[0] == "dead":
                bury(session, destination, row[1:])
            else:
                insert(session, destination, [row])
            if request.param != "one window" and (
                number + 1 == len(rows) or fence_of(rows[number + 1]) > fence_of(row)
            ):
                marks.append(apply(session, it, marks[-1], fence_of(row)))
        if rows:
            marks.append(apply(session, it, marks[-1], fence_of(rows[-1])))
        return target(session, destination)

    return show


def fence_of(row: tuple[Any, ...]) -> int:
    row = row[1:] if row[0] == "dead" else row
    return int(row[2]) + 1


Show = Callable[..., dict[int, Any]]


def test_a_row_whose_value_only_a_dead_row_has_is_not_shown_half(after: Show) -> None:
    assert after(CREATED, ("dead", *DEAD_UPDATE), LEAVES_OUT) == {1: (1, "old", "o")}


def test_a_row_that_brings_what_the_dead_row_brought_is_whole(after: Show) -> None:
    assert after(CREATED, ("dead", *DEAD_UPDATE), LEAVES_OUT, BRINGS) == {1: (4, "new", "o")}


def test_a_row_that_was_whole_since_the_dead_one_is_followed(after: Show) -> None:
    later = ("U", 100, 36, 1, 0, '["big","other"]', None, 1, 5, None, None)
    assert after(CREATED, ("dead", *DEAD_UPDATE), BRINGS, later) == {1: (5, "new", "o")}


def test_a_row_that_came_dead_is_not_shown_with_nothing_in_it(after: Show) -> None:
    assert after(("dead", *CREATED), LEAVES_OUT) == {}
    assert after(BRINGS) == {}, "what the dead row had is still missing"


def test_a_dead_row_is_followed_through_changes_of_the_key(after: Show) -> None:
    later = ("U", 100, 36, 1, 0, '["big"]', None, 2, 5, None, "q")
    assert after(CREATED, ("dead", *DEAD_UPDATE), *MOVED, later) == {}
    assert after(("U", 100, 38, 1, 0, None, None, 2, 6, "w", "w")) == {2: (6, "w", "w")}


def test_a_key_change_that_is_dead_ends_the_old_row_only(after: Show) -> None:
    later = ("U", 100, 36, 1, 0, '["big"]', None, 2, 5, None, "q")
    assert after(CREATED, MOVED[0], ("dead", *MOVED[1]), later) in ({}, {2: (5, "old", "q")}), "in two windows it waits"


def test_a_row_made_anew_after_a_dead_one_is_its_own(after: Show) -> None:
    deleted = ("D", 100, 33, 1, 0, None, None, 1, None, None, None)
    anew = ("I", 100, 34, 1, 0, None, None, 1, 7, "anew", "a")
    later = ("U", 100, 36, 1, 0, '["big","other"]', None, 1, 8, None, None)
    assert after(CREATED, ("dead", *DEAD_UPDATE), LEAVES_OUT, deleted, anew, later) == {1: (8, "anew", "a")}


def test_a_truncate_ends_dead_rows_too(after: Show) -> None:
    truncate = ("T", 100, 33, 1, 0, None, None, None, None, None, None)
    anew = ("I", 100, 34, 1, 0, None, None, 1, 7, "anew", "a")
    later = ("U", 100, 36, 1, 0, '["big","other"]', None, 1, 8, None, None)
    assert after(CREATED, ("dead", *DEAD_UPDATE), truncate, anew, later) == {1: (8, "anew", "a")}


def test_a_row_that_waits_for_a_dead_one_is_shown_when_that_is_replayed(
    after: Show, session: Any, destination: Destination
) -> None:
    assert after(CREATED, ("dead", *DEAD_UPDATE), LEAVES_OUT) == {1: (1, "old", "o")}
    rows = listed(session, destination, "pipe")
    assert [outcome for _, outcome in replay(session, destination, rows)] == [Outcome.REPLAYED]
    assert target(session, destination) == {1: (3, "dead", "o")}


def test_the_live_view_shows_no_half_row_either(session: Any, destination: Destination) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [CREATED])
    apply(session, it, mark, 20)
    bury(session, destination, DEAD_UPDATE)
    live = f"SELECT K, A, BIG, OTHER FROM {objects_of(destination, TABLE).live_sql}"
    insert(session, destination, [LEAVES_OUT])
    with session.cursor() as cursor:
        assert cursor.execute(live).fetchall() == [(1, 1, "old", "o")]
        insert(session, destination, [BRINGS])
        assert cursor.execute(live).fetchall() == [(1, 4, "new", "o")]


def test_values_are_looked_up_for_the_deciding_rows_alone(destination: Destination) -> None:
    objects = objects_of(destination, TABLE)
    unchanged = {"big": "_ETL_UNCHANGED IN ('[\"big\"]')"}
    window = Window(TABLE.columns, f"{objects.landing_sql} l WHERE TRUE", objects.target_sql, unchanged)
    parts = {text.partition(" ")[0]: text for text in target_of_keys.current(window)}
    assert list(parts) == ["w", "c", "p", "v", "f", "s"]
    assert [name for name, text in parts.items() if '"BIG"' in text] == ["w", "s"]
    assert "QUALIFY" in parts["f"]
