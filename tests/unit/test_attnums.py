"""Which column is which, when the catalog is ahead of the stream."""

from __future__ import annotations

from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.reader.attnums import attnums
from workers.reader.catalog import CatalogColumn, CatalogTable
from workers.reader.change import must_copy

NAME, TEXT = TableName("public", "t"), ValueType(ValueKind.TEXT)


def shape(**columns: int) -> Table:
    return Table(NAME, 1, tuple(Column(name, TEXT, key=name == "id", attnum=n) for name, n in columns.items()))


def catalog(had: int, **columns: int) -> CatalogTable:
    facts = tuple(CatalogColumn(name, 25, -1, 25, -1, n, False, True, None, False) for name, n in columns.items())
    return CatalogTable(1, NAME, "d", facts, ("id",), (), tuple(range(1, had + 1)))


def test_a_rename_is_proved_by_order_also_when_the_name_has_changed_again() -> None:
    before, now = shape(id=1, a=2, b=3), catalog(3, id=1, d=2, b=3)
    assert attnums(["id", "a", "b"], before, now) == [1, 2, 3]
    assert attnums(["id", "c", "b"], before, now) == [1, 2, 3]


def test_names_that_change_places_are_told_apart() -> None:
    before, now = shape(id=1, a=2, b=3), catalog(3, id=1, b=2, a=3)
    assert attnums(["id", "a", "b"], before, now) == attnums(["id", "b", "a"], before, now) == [1, 2, 3]


def test_a_column_dropped_and_added_again_is_told_from_the_old_one_by_its_place() -> None:
    before, now = shape(id=1, a=2, b=3), catalog(4, id=1, b=3, a=4)
    assert attnums(["id", "a", "b"], before, now) == [1, 2, 3]
    assert attnums(["id", "b"], before, now) == [1, 3]
    assert attnums(["id", "b", "a"], before, now) == [1, 3, 4]


def test_the_last_column_dropped_and_added_again_can_not_be_told_and_needs_a_copy() -> None:
    before, now = shape(id=1, a=2), catalog(3, id=1, a=3)
    assert attnums(["id", "a"], before, now) == [1, 0]
    assert must_copy(before, shape(id=1, a=0)) == "column a was dropped and added again"


def test_without_a_shape_before_names_and_gaps_decide() -> None:
    assert attnums(["id", "x", "b"], None, catalog(4, id=1, a=2, b=3, c=4)) == [1, 2, 3]
    assert attnums(["id", "b", "x"], None, catalog(5, id=1, b=3, c=4, d=5)) == [1, 3, 0]
    assert attnums(["id", "b", "a"], None, catalog(4, id=1, a=2, b=3, c=4)) == [0, 0, 0]


def test_a_table_that_is_gone_has_the_columns_that_it_had() -> None:
    assert attnums(["id", "a"], shape(id=1, a=2), None) == [1, 2]
    assert attnums(["id", "a"], None, None) == [0, 0]


def test_what_keeps_values_is_followed_and_what_does_not_is_copied_again() -> None:
    before = shape(id=1, a=2, b=3)
    assert must_copy(before, shape(id=1, c=2, b=3)) is None
    assert must_copy(before, shape(id=1, b=2, a=3)) is None
    assert must_copy(before, shape(id=1, b=3, n=4)) is None
    assert must_copy(before, shape(id=1, b=3, a=4)) is None
    assert must_copy(before, shape(id=1, a=2, b=3, n=0)) == "column n may be one that had another name"
    other = Table(NAME, 1, (*before.columns[:2], Column("b", ValueType(ValueKind.INT32), attnum=3)))
    assert must_copy(before, other) == "column b is of another type"
    keyless = Table(NAME, 1, tuple(Column(c.name, TEXT, attnum=c.attnum) for c in before.columns))
    assert must_copy(before, keyless) == "its key is another one"
    computed = Table(NAME, 1, (*before.columns, Column("r", TEXT, attnum=4, computed=True)))
    assert must_copy(before, computed) == "column r was added with values of its own"
