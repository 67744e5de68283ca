"""What a change of shape means for a table: it is followed, or the rows must be copied again. Pure.

    rename, drop, add, wider numeric    followed: the rows that are there keep their values
    another type or another key         copied again: values or identities of older rows are others
    a default that was computed         copied again: the catalog does not tell what older rows hold
    not proved (`attnums`)              copied again: the catalog alone can tell, and it is of another moment

A change that lies before the consistent point of the table's copy needs nothing: the copy shows it already.
"""

from __future__ import annotations

from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import ValueKind, ValueType


def must_copy(old: Table, new: Table) -> str | None:
    """Why the table must be copied again after this change of shape; None when it can be followed."""
    by_number = {column.attnum: column for column in old.columns if column.attnum}
    by_name = {column.name: column for column in old.columns}
    if _identity(old) != _identity(new):
        return "its key is another one"
    for column in new.columns:
        before = by_number.get(column.attnum)
        reason = _added(column, by_name) if before is None else _altered(before, column)
        if reason is not None:
            return reason
    return None


def _identity(table: Table) -> set[int | str]:
    return {column.attnum or column.name for column in table.key}


def _added(column: Column, by_name: dict[str, Column]) -> str | None:
    namesake = by_name.get(column.name)
    if namesake is not None and namesake.attnum == column.attnum == 0:
        return _altered(namesake, column)
    if namesake is not None and not (namesake.attnum and column.attnum):
        return f"column {column.name} was dropped and added again"
    if column.attnum == 0:
        return f"column {column.name} may be one that had another name"
    if column.computed:
        return f"column {column.name} was added with values of its own"
    return None


def _altered(before: Column, after: Column) -> str | None:
    if before.type == after.type or _wider(before.type, after.type):
        return None
    return f"column {after.name} is of another type"


def _wider(old: ValueType, new: ValueType) -> bool:
    """Numeric with more digits before the point: no row changes."""
    both = old.kind is new.kind is ValueKind.NUMERIC
    return both and old.scale == new.scale and old.precision <= new.precision
