"""The rule for single values is the rule for columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind, ValueType, is_special
from workers.reader.columns import convert

MOMENTS = ["2024-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "0044-03-15 BC", "infinity", "-infinity"]
TEXTS = {
    ValueKind.NUMERIC: ["NaN", "0", "-1.5"],
    ValueKind.DATE: MOMENTS,
    ValueKind.TIMESTAMP: [*MOMENTS[:3], "infinity", "-infinity", "0044-03-15 00:00:00 BC", "294276-12-31 23:59:59"],
    ValueKind.TIMESTAMPTZ: ["2024-01-01 00:00:00+00", "infinity", "0044-03-15 00:00:00+00 BC"],
    ValueKind.JSON: ["null", '"null"', "[null]"],
    ValueKind.JSON_TEXT: [" null\n", "{}"],
    ValueKind.TEXT: ["infinity", "NaN", "null", ""],
    ValueKind.FLOAT64: ["NaN", "Infinity"],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_special_alone_is_special_in_a_column(kind: ValueKind) -> None:
    column = Column("v", ValueType(kind, 5, 2) if kind is ValueKind.NUMERIC else ValueType(kind))
    array, flags = convert(pa.array([text.encode() for text in TEXTS[kind]], pa.binary()), column, "test")
    found = [False] * len(array) if flags is None else flags.to_pylist()
    assert found == [is_special(text, kind) for text in TEXTS[kind]]
    assert array.is_null().to_pylist() == found
