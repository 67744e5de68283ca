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
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.model.table import Table
from workers.reader.frame import Flags, Frames, Integers, Octets, broken
from workers.reader.rows import Changes, Rows
from workers.reader.values import BINARY, NULL, TEXT, UNCHANGED, ColumnValues, bytes_array

_OID_BYTES, _LENGTH_BYTES = 4, 4
_SIZED = np.zeros(256, dtype=bool)
_SIZED[[TEXT, BINARY]] = True
_KNOWN = _SIZED.copy()
_KNOWN[[NULL, UNCHANGED]] = True


@dataclass(slots=True)
class _Group:
    """Rows of one operation: which of the changes, 0 or 1 for the half of a key change, their columns, and old key if it changed."""

    op: str
    number: Integers
    half: int
    columns: list[ColumnValues]
    old: list[ColumnValues] | None = None


@dataclass(slots=True)
class _Messages:
    """Changes of tables of one shape: their frames, by number."""

    data: Frames
    frame: Integers
    table: Table

    def start(self, number: Integers) -> Integers:
        """Where the first tuple begins: after the oid and the marker."""
        return self.data.body[self.frame[number]] + _OID_BYTES + 1


def read_changes(rows: Rows, places: Integers, table: Table) -> Changes:
    """The changes at `places` (they index `rows`), in that order; a key change is two rows. All are of tables that are like `table`."""
    messages, kinds = _Messages(rows.data, rows.frame[places], table), rows.kind[places]
    groups: list[_Group] = []
    truncates = np.flatnonzero(kinds == ord("T"))
    if len(truncates):
        groups.append(_Group("T", truncates, 0, [_nothing(len(truncates))] * len(table.columns)))
    changes = np.flatnonzero(kinds != ord("T"))
    at = messages.start(changes) - 1
    rows.data.need(at, 1, messages.frame[changes], "Insert, Update or Delete", "marker")
    marker, kind = rows.data.byte(at), kinds[changes]
    for op in "IU":
        number = changes[(kind == ord(op)) & (marker == ord("N"))]
        if len(number):
            groups.append(_Group(op, number, 0, _last_tuple(messages, number, messages.start(number))))
    old = (marker == ord("K")) | (marker == ord("O"))
    deleted = changes[(kind == ord("D")) & old]
    if len(deleted):
        columns = _last_tuple(messages, deleted, messages.start(deleted))
        groups.append(_Group("D", deleted, 0, _key_only(columns, table)))
    for code in (ord("K"), ord("O")):
        number = changes[(kind == ord("U")) & (marker == code)]
        if len(number):
            groups += _updates_with_old(messages, number, whole=code == ord("O"))
    if sum(len(group.number) for group in groups if group.half == 0) != len(places):
        raise broken("Insert, Update or Delete", "marker")
    return _in_order(groups, places, len(table.columns))


def _tuple(messages: _Messages, number: Integers, at: Integers) -> tuple[list[ColumnValues], Integers]:
    """All columns of the tuples that begin at `at`, and where they end.

    Places only grow, and `limit` lies behind every frame: a length that is wrong anywhere makes the last place wrong, which is checked.
    """
    data, table = messages.data, messages.table
    data.need(at, 2, messages.frame[number], "tuple", "column count")
    if bool((data.uint16(at) != len(table.columns)).any()):
        raise broken("tuple", "column count")
    at = at + 2
    columns = []
    for column in table.columns:
        at = np.minimum(at, data.limit)
        kind = data.byte(at)
        if bool((kind == kind[0]).all()):
            sized, known = bool(_SIZED[kind[0]]), bool(_KNOWN[kind[0]])
            begin = at + (1 + _LENGTH_BYTES if sized else 1)
            at = begin + data.uint32(at + 1) if sized else begin
        else:
            mask, known = _SIZED[kind], bool(_KNOWN[kind].all())
            begin = at + np.where(mask, 1 + _LENGTH_BYTES, 1)
            at = begin + np.where(mask, data.uint32(at + 1), 0)
        if not known:
            raise broken("tuple", f"kind of column {column.name}")
        columns.append(ColumnValues(kind, begin, at))
    data.need(at, 0, messages.frame[number], "tuple", "length of a column")
    return columns, at


def _last_tuple(messages: _Messages, number: Integers, at: Integers) -> list[ColumnValues]:
    """All columns of tuples with which their frames end."""
    columns, end = _tuple(messages, number, at)
    messages.data.at_end(end, messages.frame[number], "tuple")
    return columns


def _updates_with_old(messages: _Messages, number: Integers, *, whole: bool) -> list[_Group]:
    """Updates that bring their old key ('K': it changed, or lies out of line) or their whole old row ('O'): compare the keys."""
    data, table = messages.data, messages.table
    old, at = _tuple(messages, number, messages.start(number))
    data.need(at, 1, messages.frame[number], "Update", "marker of the new tuple")
    if bool(np.any(data.byte(at) != ord("N"))):
        raise broken("Update", "marker of the new tuple")
    new = _last_tuple(messages, number, at + 1)
    new = [
        _filled(after, before) if whole or definition.key else after
        for definition, before, after in zip(table.columns, old, new, strict=True)
    ]
    # Without a key only the old row tells which row it was: the log has it as a delete.
    moved = _key_differs(data, old, new, table) if table.key else np.ones(len(number), dtype=bool)
    groups = _halves(number, old, new, table, moved)
    stayed = ~moved
    if bool(stayed.any()):
        groups.append(_Group("U", number[stayed], 0, [column.pick(stayed) for column in new]))
    return groups


def _halves(
    number: Integers, old: list[ColumnValues], new: list[ColumnValues], table: Table, moved: Flags
) -> list[_Group]:
    """A key change: the delete of the old key, then the insert of the new row."""
    if not bool(moved.any()):
        return []
    before = _key_only([column.pick(moved) for column in old], table)
    after = [column.pick(moved) for column in new]
    return [_Group("D", number[moved], 0, before), _Group("I", number[moved], 1, after, before)]


def _filled(new: ColumnValues, old: ColumnValues) -> ColumnValues:
    """Unchanged TOAST values stand in the old row."""
    unchanged = new.kind == UNCHANGED
    if not bool(unchanged.any()):
        return new
    return ColumnValues(
        np.where(unchanged, old.kind, new.kind),
        np.where(unchanged, old.begin, new.begin),
        np.where(unchanged, old.end, new.end),
    )


def _key_differs(data: Frames, old: list[ColumnValues], new: list[ColumnValues], table: Table) -> Flags:
    differs = np.zeros(len(old[0].kind) if old else 0, dtype=bool)
    for column, before, after in zip(table.columns, old, new, strict=True):
        if column.key:
            unequal = pc.not_equal(_octets(data, before), _octets(data, after))
            differs |= pc.fill_null(unequal, True).to_numpy(zero_copy_only=False)
    return differs


def _octets(data: Frames, column: ColumnValues) -> pa.Array:
    return bytes_array(data, column, _SIZED[column.kind])


def _key_only(columns: list[ColumnValues], table: Table) -> list[ColumnValues]:
    """The key columns of a deleted row; the whole row if the table has no key."""
    if not table.key:
        return columns
    return [
        column if definition.key else _nothing(len(column.kind))
        for column, definition in zip(columns, table.columns, strict=True)
    ]


def _nothing(count: int) -> ColumnValues:
    zeros = np.zeros(count, dtype=np.int64)
    return ColumnValues(np.full(count, NULL, dtype=np.uint8), zeros, zeros)


def _in_order(groups: list[_Group], places: Integers, width: int) -> Changes:
    """All groups as one, ordered by change and half."""
    if len(groups) == 1 and groups[0].half == 0:
        (only,) = groups
        zeros = np.zeros(len(places), dtype=np.int64)
        return Changes(
            np.full(len(places), ord(only.op), dtype=np.uint8), only.number, places, zeros, only.columns, None
        )
    number = np.concatenate([group.number for group in groups])
    halves = np.concatenate([np.full(len(group.number), group.half, dtype=np.int64) for group in groups])
    ops = np.concatenate([np.full(len(group.number), ord(group.op), dtype=np.uint8) for group in groups])
    order = np.lexsort((halves, number))
    columns = [_joined([group.columns[i] for group in groups], order) for i in range(width)]
    old = None
    if any(group.old is not None for group in groups):
        old = [_joined([_old_of(group, i) for group in groups], order) for i in range(width)]
    number = number[order]
    return Changes(ops[order], number, places[number], halves[order], columns, old)


def _old_of(group: _Group, number: int) -> ColumnValues:
    return group.old[number] if group.old is not None else _nothing(len(group.number))


def _joined(columns: list[ColumnValues], order: Integers) -> ColumnValues:
    if len(columns) == 1:
        return columns[0].pick(order)
    kind: Octets = np.concatenate([column.kind for column in columns])
    begin: Integers = np.concatenate([column.begin for column in columns])
    end: Integers = np.concatenate([column.end for column in columns])
    return ColumnValues(kind[order], begin[order], end[order])
