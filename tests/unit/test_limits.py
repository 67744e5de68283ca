"""Rows beyond what Snowflake holds."""

from __future__ import annotations

import hashlib

import orjson
import pyarrow as pa

from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.snowflake import limits
from workers.snowflake.dead_letter import PAYLOAD_BYTES_MAX, dead_rows
from workers.snowflake.limits import Limits, Verdict, limits_of, too_large

TABLE = Table(
    TableName("public", "t"),
    1,
    (
        Column("id", ValueType(ValueKind.INT32), key=True),
        Column("note", ValueType(ValueKind.TEXT)),
        Column("image", ValueType(ValueKind.BYTES)),
        Column("doc", ValueType(ValueKind.JSON)),
    ),
)
DECLARED = limits_of(
    [
        ("ID", "NUMBER(10,0)"),
        ("NOTE", "VARCHAR(5)"),
        ("IMAGE", "BINARY(3)"),
        ("DOC", "VARIANT"),
        ("_ETL_OP", "VARCHAR(1)"),
    ]
)


def batch_of(*rows: dict[str, object]) -> pa.RecordBatch:
    meta = {"_etl_op": "I", "_etl_commit_lsn": 9, "_etl_lsn": 8}
    whole = [{**meta, "_etl_index": 2 * n, "id": n, **row} for n, row in enumerate(rows)]
    return pa.RecordBatch.from_pylist(whole, schema=change_log_schema(TABLE))


def test_declared_sizes_are_characters_of_texts_and_bytes_of_binary_values() -> None:
    assert Limits({"NOTE": 5, "IMAGE": 3}) == DECLARED
    batch = batch_of(
        {"note": "ééééé"},
        {"note": "éééééé"},
        {"note": None},
        {"image": b"abc"},
        {"image": b"abcd"},
        {"doc": '"123456"'},
    )
    found = too_large(batch, DECLARED)
    assert {row: (verdict.column, verdict.bytes) for row, verdict in found.items()} == {
        1: ("note", 12),
        4: ("image", 4),
    }
    assert found[1].reason == "column note holds 12 bytes, Snowflake takes 5 characters"


def test_a_slice_is_judged_by_its_own_rows() -> None:
    batch = batch_of({"note": "toolong"}, {"note": "ok"}, {"note": "too long"})
    assert list(too_large(batch.slice(1), DECLARED)) == [1]


def test_the_largest_sizes_hold_without_a_declaration(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(limits, "VALUE_BYTES_MAX", 100)
    monkeypatch.setattr(limits, "BINARY_BYTES_MAX", 50)
    monkeypatch.setattr(limits, "LINE_BYTES_MAX", 150)
    rows = [
        {"note": "x" * 101},
        {"doc": '"' + "x" * 99 + '"'},
        {"image": b"x" * 51},
        {"note": "x" * 90, "doc": "1" * 90},
        {},
    ]
    found = too_large(batch_of(*rows), Limits())
    assert [(row, verdict.column) for row, verdict in found.items()] == [
        (0, "note"),
        (1, "doc"),
        (2, "image"),
        (3, None),
    ]


def test_a_dead_row_keeps_everything_that_can_be_kept() -> None:
    large = "y" * (PAYLOAD_BYTES_MAX + 1)
    batch = batch_of({"note": "fine"}, {"note": large, "image": b"\x00\xff", "doc": '{"a": 1}'}, {"note": "toolong"})
    why = Verdict("reason", "note", 1)
    first, second = dead_rows(batch, {1: why, 2: why}, TABLE, 7, "now")
    assert first.position == (7, 9, 8, 2)
    assert (first.op, first.key) == ("I", '{"id":1}')
    line = orjson.loads(first.payload)
    assert (line["NOTE"], line["IMAGE"], line["DOC"]) == (None, "AP8=", {"a": 1})
    digest = hashlib.sha256(large.encode()).hexdigest()
    assert orjson.loads(first.left_out or "") == {"note": {"bytes": len(large), "sha256": digest}}
    assert second.left_out is None
    assert orjson.loads(second.payload)["NOTE"] == "toolong"
