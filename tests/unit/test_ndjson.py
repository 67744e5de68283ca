"""A batch as the SDK wants it: every line reads back as the row."""

import base64
import datetime as dt
import json
import math
from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.snowflake.ndjson import encode, names_bytes

COLUMNS = {
    "flag": ValueType(ValueKind.BOOLEAN),
    "n": ValueType(ValueKind.INT64),
    "f": ValueType(ValueKind.FLOAT64),
    "price": ValueType(ValueKind.NUMERIC, 12, 2),
    'odd "name"': ValueType(ValueKind.TEXT),
    "bin": ValueType(ValueKind.BYTES),
    "day": ValueType(ValueKind.DATE),
    "at": ValueType(ValueKind.TIMESTAMPTZ),
    "doc": ValueType(ValueKind.JSON),
}
TABLE = Table(TableName("public", "t"), 1, tuple(Column(name, kind) for name, kind in COLUMNS.items()))
META = {"_etl_op": "I", "_etl_commit_lsn": 2**63 + 5, "_etl_lsn": 2, "_etl_index": 0}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "flag": st.none() | st.booleans(),
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "f": st.none() | st.floats(),
            "price": st.none() | st.decimals(-(10**9), 10**9, places=2),
            'odd "name"': st.none() | st.text(),
            "bin": st.none() | st.binary(),
            "day": st.none() | st.dates(dt.date(1, 1, 1)),
            "at": st.none() | st.datetimes(timezones=st.just(dt.UTC)),
            "doc": st.none() | st.sampled_from(['{"a": [1, "x"]}', "[]", '{\n "b": 2\r}', "12345678901234567890.5"]),
        }
    ),
    min_size=1,
    max_size=12,
)


def lines_of(rows):
    batch = pa.RecordBatch.from_pylist([{**META, **row} for row in rows], schema=change_log_schema(TABLE))
    data = encode(batch, TABLE, 7, "2024-01-01 00:00:00+00:00").to_pybytes()
    lines = data.split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line, parse_float=str) for line in lines]


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_what_is_no_value_is_known_to_the_byte(rows):
    batch = pa.RecordBatch.from_pylist([{**META, **row} for row in rows], schema=change_log_schema(TABLE))
    older = batch.select([name for name in batch.schema.names if name != "n"])
    table = replace(TABLE, columns=tuple(replace(c, default="5" if c.name == "n" else None) for c in TABLE.columns))
    for sent in (batch, older):
        data = encode(sent, table, 7, "2024-01-01 00:00:00+00:00").to_pybytes()
        line = json.loads(data.split(b"\n")[0])
        bare = json.dumps(dict.fromkeys(line), separators=(",", ":"), ensure_ascii=False).encode()
        assert names_bytes(sent, table) == len(bare) - len("null") * len(line) + 1


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_every_line_reads_back_as_its_row(rows):
    for row, found in zip(rows, lines_of(rows), strict=True):
        assert found["_ETL_GENERATION"] == 7
        assert found["_ETL_COMMIT_LSN"] == 2**63 + 5
        assert (found["FLAG"], found["N"], found['ODD "NAME"']) == (row["flag"], row["n"], row['odd "name"'])
        assert (found["PRICE"] and Decimal(found["PRICE"])) == row["price"]
        assert (found["BIN"] and base64.b64decode(found["BIN"])) == (row["bin"] or (found["BIN"] and b""))
        assert (found["DAY"] and dt.date.fromisoformat(found["DAY"])) == row["day"]
        assert (found["AT"] and dt.datetime.fromisoformat(found["AT"])) == row["at"]
        assert found["DOC"] == (None if row["doc"] is None else json.loads(row["doc"], parse_float=str))
        if row["f"] is None or math.isfinite(row["f"]):
            assert (None if found["F"] is None else float(found["F"])) == row["f"]
        else:
            assert found["F"] == ("NaN" if math.isnan(row["f"]) else "inf" if row["f"] > 0 else "-inf")


def test_rows_of_an_older_shape_take_the_defaults_of_later_columns():
    old = Table(TABLE.name, 1, TABLE.columns[:1])
    added = (
        Column("price", ValueType(ValueKind.NUMERIC, 5, 2), default="1.50"),
        Column("b", ValueType(ValueKind.BYTES), default="\\xff00"),
    )
    batch = pa.RecordBatch.from_pylist([{**META, "flag": True}], schema=change_log_schema(old))
    (line,) = encode(batch, Table(TABLE.name, 1, (*old.columns, *added), 1), 7, "now").to_pybytes().splitlines()
    found = json.loads(line)
    assert (found["FLAG"], found["PRICE"], base64.b64decode(found["B"])) == (True, "1.50", b"\xff\x00")


def test_a_default_that_its_column_can_not_hold_stands_beside_what_is_there():
    old = Table(TABLE.name, 1, (Column("price", ValueType(ValueKind.NUMERIC, 5, 2)),))
    added = (
        Column("until", ValueType(ValueKind.DATE), default="infinity"),
        Column("j", ValueType(ValueKind.JSON), default="1" * 39),
    )
    rows = [{**META, "price": None, "_etl_special": '{"price":"NaN"}'}, {**META, "price": Decimal("1.50")}]
    batch = pa.RecordBatch.from_pylist(rows, schema=change_log_schema(old))
    data = encode(batch, Table(TABLE.name, 1, (*old.columns, *added), 1), 7, "now").to_pybytes()
    first, second = (json.loads(line) for line in data.splitlines())
    assert json.loads(first["_ETL_SPECIAL"]) == {"price": "NaN", "until": "infinity"}
    assert json.loads(second["_ETL_SPECIAL"]) == {"until": "infinity"}
    assert ("UNTIL" in first, first["J"]) == (False, "1" * 39)
