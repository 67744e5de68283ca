"""Tuples of Insert, Update and Delete messages, read by column.

    Insert    'I' oid(4)  'N' tuple
    Update    'U' oid(4) ['K' key tuple | 'O' old tuple] 'N' tuple
    Delete    'D' oid(4)  'K' key tuple | 'O' old tuple

A column of many tuples is three arrays: its kind byte, and where its text begins and ends in the joined frames. Rows of different shapes
are put in stream order here, as numbers, before any text is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from etl_supervisor.model.table import Table
from workers.reader.frame import MESSAGE, Flags, Frames, Integers, Octets, broken
from workers.reader.rows import Changes, Rows, TextColumn, text_array

TEXT, NULL, UNCHANGED = ord("t"), ord("n"), ord("u")
_MARKER = MESSAGE + 5  # after kind(1) and relation oid(4)


@dataclass(slots=True)
class _Group:
    """Rows of one operation: which row frames, 0 or 1 for the half of a key change, their columns, and old key if it changed."""

    op: str
    places: Integers
    half: int
    columns: list[TextColumn]
    old: list[TextColumn] | None = None


def read_changes(rows: Rows, places: Integers, table: Table) -> Changes:
    """The changes of one table (`places` index `rows`), in stream order; a key change is two rows."""
    kinds, data = rows.kind[places], rows.data
    groups: list[_Group] = []
    truncates = places[kinds == ord("T")]
    if len(truncates):
        groups.append(_Group("T", truncates, 0, [_nothing(len(truncates))] * len(table.columns)))
    changes = places[kinds != ord("T")]
    marker = data.byte(data.start[rows.frame[changes]] + _MARKER)
    data.need(data.start[rows.frame[changes]] + _MARKER, 1, rows.frame[changes], "Insert, Update or Delete", "marker")
    kind = rows.kind[changes]
    for code, op in ((ord("I"), "I"), (ord("U"), "U")):
        part = changes[(kind == code) & (marker == ord("N"))]
        if len(part):
            groups.append(_Group(op, part, 0, _tuple(rows, part, _start(rows, part), table)[0]))
    old = (marker == ord("K")) | (marker == ord("O"))
    deleted = changes[(kind == ord("D")) & old]
    if len(deleted):
        columns = _tuple(rows, deleted, _start(rows, deleted), table)[0]
        groups.append(_Group("D", deleted, 0, _key_only(columns, table)))
    for code in (ord("K"), ord("O")):
        part = changes[(kind == ord("U")) & (marker == code)]
        if len(part):
            groups += _updates_with_old(rows, part, table, whole=code == ord("O"))
    if sum(len(group.places) for group in groups if group.half == 0) != len(places):
        raise broken("Insert, Update or Delete", "marker")
    return _in_order(groups, len(table.columns))


def _start(rows: Rows, places: Integers) -> Integers:
    return rows.data.start[rows.frame[places]] + _MARKER + 1


def _tuple(rows: Rows, places: Integers, at: Integers, table: Table) -> tuple[list[TextColumn], Integers]:
    """All columns of the tuples that begin at `at`, and where they end."""
    data, frames = rows.data, rows.frame[places]
    data.need(at, 2, frames, "tuple", "column count")
    if bool(np.any(data.uint(at, 2) != len(table.columns))):
        raise broken("tuple", "column count")
    at = at + 2
    columns = []
    for column in table.columns:
        data.need(at, 1, frames, "tuple", f"kind of column {column.name}")
        kind = data.byte(at)
        text = kind == TEXT
        if bool(np.any(~text & (kind != NULL) & (kind != UNCHANGED))):
            raise broken("tuple", f"kind of column {column.name}")
        begin = at + np.where(text, 5, 1)
        size = np.where(text, data.uint(at + 1, 4), 0)
        at = begin + size
        data.need(begin, 0, frames, "tuple", f"length of column {column.name}")
        data.need(at, 0, frames, "tuple", f"length of column {column.name}")
        columns.append(TextColumn(kind, begin, at))
    return columns, at


def _updates_with_old(rows: Rows, places: Integers, table: Table, *, whole: bool) -> list[_Group]:
    """Updates that bring their old key ('K': it changed) or their whole old row ('O': compare)."""
    data, frames = rows.data, rows.frame[places]
    old, at = _tuple(rows, places, _start(rows, places), table)
    data.need(at, 1, frames, "Update", "marker of the new tuple")
    if bool(np.any(data.byte(at) != ord("N"))):
        raise broken("Update", "marker of the new tuple")
    new, _ = _tuple(rows, places, at + 1, table)
    if not whole:
        return _halves(places, old, new, table, np.ones(len(places), dtype=bool))
    new = [_filled(after, before) for before, after in zip(old, new, strict=True)]
    moved = _key_differs(data, old, new, table)
    groups = _halves(places, old, new, table, moved)
    stayed = ~moved
    if bool(stayed.any()):
        groups.append(_Group("U", places[stayed], 0, [column.pick(stayed) for column in new]))
    return groups


def _halves(places: Integers, old: list[TextColumn], new: list[TextColumn], table: Table, moved: Flags) -> list[_Group]:
    """A key change: the delete of the old key, then the insert of the new row."""
    if not bool(moved.any()):
        return []
    before = _key_only([column.pick(moved) for column in old], table)
    after = [column.pick(moved) for column in new]
    return [_Group("D", places[moved], 0, before), _Group("I", places[moved], 1, after, before)]


def _filled(new: TextColumn, old: TextColumn) -> TextColumn:
    """Unchanged TOAST values stand in the old row."""
    unchanged = new.kind == UNCHANGED
    if not bool(unchanged.any()):
        return new
    return TextColumn(
        np.where(unchanged, old.kind, new.kind),
        np.where(unchanged, old.begin, new.begin),
        np.where(unchanged, old.end, new.end),
    )


def _key_differs(data: Frames, old: list[TextColumn], new: list[TextColumn], table: Table) -> Flags:
    differs = np.zeros(len(old[0].kind) if old else 0, dtype=bool)
    for column, before, after in zip(table.columns, old, new, strict=True):
        if column.key:
            unequal = pc.not_equal(text_array(data, before), text_array(data, after))
            differs |= pc.fill_null(unequal, True).to_numpy(zero_copy_only=False)
    return differs


def _key_only(columns: list[TextColumn], table: Table) -> list[TextColumn]:
    """The key columns of a deleted row; the whole row if the table has no key."""
    if not table.key:
        return columns
    return [
        column if definition.key else _nothing(len(column.kind))
        for column, definition in zip(columns, table.columns, strict=True)
    ]


def _nothing(count: int) -> TextColumn:
    zeros = np.zeros(count, dtype=np.int64)
    return TextColumn(np.full(count, NULL, dtype=np.uint8), zeros, zeros)


def _in_order(groups: list[_Group], width: int) -> Changes:
    """All groups as one, ordered by frame and half."""
    places = np.concatenate([group.places for group in groups])
    halves = np.concatenate([np.full(len(group.places), group.half, dtype=np.int64) for group in groups])
    ops = np.concatenate([np.full(len(group.places), ord(group.op), dtype=np.uint8) for group in groups])
    order = np.lexsort((halves, places))
    columns = [_joined([group.columns[i] for group in groups], order) for i in range(width)]
    old = None
    if any(group.old for group in groups):
        old = [_joined([_old_of(group, i) for group in groups], order) for i in range(width)]
    return Changes(ops[order], places[order], halves[order], columns, old)


def _old_of(group: _Group, number: int) -> TextColumn:
    return group.old[number] if group.old is not None else _nothing(len(group.places))


def _joined(columns: list[TextColumn], order: Integers) -> TextColumn:
    if len(columns) == 1:
        return columns[0].pick(order)
    kind: Octets = np.concatenate([column.kind for column in columns])
    begin: Integers = np.concatenate([column.begin for column in columns])
    end: Integers = np.concatenate([column.end for column in columns])
    return TextColumn(kind[order], begin[order], end[order])
