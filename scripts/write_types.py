#!/usr/bin/env python3
"""Writes docs/types.md: every line of its tables comes out of the program's own code (a test compares the page with this).

The types come from `workers.reader.pgtypes`, their Arrow form from `ipc.arrow`, their columns from `workers.snowflake.sftypes`; each example is
converted and encoded as a row of the stream is.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from psycopg.postgres import types as postgres_types

from etl_supervisor.ipc.arrow import arrow_type, change_log_schema
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueType
from workers.reader.columns import convert
from workers.reader.pgtypes import value_type
from workers.reader.rows import specials
from workers.snowflake.ndjson import encode
from workers.snowflake.parquet import written
from workers.snowflake.sftypes import column_type

PAGE = Path(__file__).parents[1] / "docs" / "types.md"
EXAMPLE_CHARACTERS_MAX = 60

TEXTS = {  # types that travel as PostgreSQL's text of them, and two texts of each
    "text, varchar(n), name, citext": ["", "\\N"],
    "char(n)": ["a    "],
    '"char"': ["a"],
    "time": ["24:00:00", "23:59:59.999999"],
    "timetz": ["24:00:00-15:59"],
    "interval": ["1 year 2 mons 3 days 04:05:06.789", "infinity"],
    "money": ["-$0.01"],
    "arrays (of any type and dimension)": ['{1,NULL,"a b"}', "[0:1][1:1]={{1},{2}}"],
    "enum": ["so so"],
    "composite": ['("a ""b""",1,)'],
    "range, multirange": ["[1,5)", "{[1,3),[5,7)}"],
    "inet, cidr, macaddr, macaddr8": ["192.168.0.1/24", "08:00:2b:01:02:03"],
    "bit(n), varbit": ["10110"],
    "point, line, lseg, box, path, polygon, circle": ["(0.1,-1)", "<(0,0),1>"],
    "xml": ["<a>1</a>"],
    "tsvector, tsquery": ["'a' 'fat':2A", "'fat' & !'cat'"],
    "jsonpath": ['$."a"'],
    "pg_lsn, xid, xid8, cid, tid, pg_snapshot": ["16/B374D848", "(0,1)"],
    "regclass, regtype and their like": ["pg_class"],
    "hstore, ltree, cube, seg, isn": ['"a"=>NULL', "Top.Science"],
    "vector, halfvec, sparsevec (pgvector)": ["[1,2.5,-3]"],
    "geometry, geography (PostGIS)": ["0101000000000000000000F03F0000000000000040"],
    "every other type": [],
}


def numeric(precision: int, scale: int) -> int:
    """The typmod of numeric(precision, scale)."""
    return (precision << 16 | scale & 0x7FF) + 4


TYPED: list[tuple[str, str, int, list[str]]] = [  # how it is written, type, typmod, examples as psql prints them
    ("boolean", "bool", -1, ["t", "f"]),
    ("smallint", "int2", -1, ["-32768"]),
    ("integer", "int4", -1, ["2147483647"]),
    ("bigint", "int8", -1, ["9223372036854775807"]),
    ("oid", "oid", -1, ["4294967295"]),
    ("real", "float4", -1, ["0.1", "-0", "NaN"]),
    ("double precision", "float8", -1, ["1e-300", "-0", "NaN", "Infinity", "-Infinity"]),
    ("numeric(p,s), 1 ≤ p ≤ 38, 0 ≤ s ≤ p, s ≤ 37", "numeric", numeric(12, 2), ["-0.05", "NaN"]),
    ("numeric(p,s) beyond that", "numeric", numeric(5, -2), ["9999900", "NaN"]),
    ("numeric", "numeric", -1, ["12345678901234567890123456789012345678901.5", "NaN", "Infinity", "-Infinity"]),
    ("bytea", "bytea", -1, ["\\x", "\\x00ff10"]),
    ("date", "date", -1, ["2024-02-29", "infinity", "0044-03-15 BC", "10000-01-01"]),
    ("timestamp", "timestamp", -1, ["2024-01-31 10:00:00.123456", "-infinity", "294276-12-31 23:59:59.999999"]),
    ("timestamptz", "timestamptz", -1, ["2024-01-31 10:00:00.5+00", "infinity", "0044-03-15 12:00:00+00 BC"]),
    ("uuid", "uuid", -1, ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    (
        "jsonb",
        "jsonb",
        -1,
        ['{"n": 12345678901234567890.5}', "null", '"null"', '{"n": 123456789012345678901234567890123456789}'],
    ),
    ("json", "json", -1, ['{"n":1e5}', '{"n":1e400}', '{"a":1,"a":2}', '"\\u0000"']),
]


def page() -> str:
    """The whole page."""
    typed = [(name, value_type(postgres_types[kind].oid, typmod), found) for name, kind, typmod, found in TYPED]
    texts = [(name, value_type(0, -1), found) for name, found in TEXTS.items()]
    types = [
        f"| {name} | {arrow_type(kind)} | {column_type(kind)} | {ndjson_form(kind)} | {parquet_form(kind)} |"
        for name, kind, _ in typed + texts
    ]
    types.insert(len(typed), "| domain | as its base type | | | |")
    values = [line for name, kind, found in typed + texts for line in examples(name, kind, found)]
    return TEXT.format(types="\n".join(types), values="\n".join(values))


def examples(name: str, kind: ValueType, found: list[str]) -> list[str]:
    """A line for each example: what psql prints, the NDJSON member, `_ETL_SPECIAL`."""
    if not found:
        return []
    column = Column("v", kind)
    table = Table(TableName("public", "t"), 1, (column,))
    text = pa.array([item.encode() for item in found], pa.binary())
    array, odd = convert(text, column, "docs")
    special = specials([("v", text.cast(pa.string()), odd)] if odd is not None else [], len(found))
    rows = [{"_etl_op": "I", "_etl_commit_lsn": 1, "_etl_lsn": 1, "_etl_index": 0} for _ in found]
    batch = pa.RecordBatch.from_pylist(rows, schema=change_log_schema(table))
    batch = batch.set_column(batch.schema.get_field_index("v"), batch.schema.field("v"), array)
    lines = encode(batch, table, 1, "now").to_pybytes().decode().splitlines()
    members = [re.sub(r'.*"V":(.*)\}$', r"\1", line) for line in lines]
    return [
        f"| {name} | {code(item)} | {code(member)} | {code(kept) if kept else ''} |"
        for item, member, kept in zip(found, members, special.to_pylist(), strict=True)
    ]


def code(text: str) -> str:
    """Text as a cell of a table."""
    if len(text) > EXAMPLE_CHARACTERS_MAX:
        text = text[:EXAMPLE_CHARACTERS_MAX] + "…"
    return f"`{text}`".replace("|", "\\|") if text else "(empty)"


def ndjson_form(kind: ValueType) -> str:
    """How values stand in a line of NDJSON."""
    array = arrow_type(kind)
    if column_type(kind) == "VARIANT":
        return "the document"
    if pa.types.is_floating(array):
        return "number; NaN, infinities and -0: string"
    if pa.types.is_integer(array) or pa.types.is_boolean(array):
        return "number" if pa.types.is_integer(array) else "true, false"
    return "string in base64" if pa.types.is_binary(array) else "string"


def parquet_form(kind: ValueType) -> str:
    """The type of a column in the files of the load paths."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"v": written(pa.array([], arrow_type(kind)), kind.kind)}), file)
    found = pyarrow.parquet.ParquetFile(file).schema.column(0)
    logical = str(found.logical_type).partition("(")[0]
    return found.physical_type + ("" if logical == "None" else f" ({logical})")


TEXT = """# Types

<!-- Written by scripts/write_types.py (make docs); a test compares. -->

Arrow is the form in which rows travel between processes. Rows go to Snowflake as NDJSON through Snowpipe Streaming, or as Parquet
files (load paths `snowpipe` and `copy`) with the types of the last column: text is cast by the COPY, JSON read by PARSE_JSON. The values
in the tables are the same. The first copy and the stream give the same bits for every type.

| PostgreSQL | Arrow | Snowflake | NDJSON | Parquet |
|---|---|---|---|---|
{types}

What is VARCHAR here is PostgreSQL's own text under `timezone = UTC`, `datestyle = ISO`, `intervalstyle = postgres`, `extra_float_digits =
3`, `bytea_output = hex`: what psql prints then, padding of `char(n)` included. `money` is printed by the `lc_monetary` of the source. A
type of an extension travels as its text, so nothing has to be installed here.

## Values

| type | psql prints | NDJSON value | `_ETL_SPECIAL` |
|---|---|---|---|
{values}

## `_ETL_SPECIAL`

A value that its column can't hold (NaN of a `numeric(p,s)`, dates that are infinite, BC or after 9999, the JSON value `null`, which would
look like no value) is NULL in its column **and** stands as text in the column `_ETL_SPECIAL` of the same row, in the landing table and in
the target: a JSON object from the source's column name to PostgreSQL's text, such as `{{"price": "NaN", "valid_until": "infinity"}}`.
`_ETL_SPECIAL` is NULL in every row that has no such value. Nothing becomes NULL silently.

Such a value may be (part of) a key: rows are told apart by the column and the text together.

```sql
SELECT ID, VALID_UNTIL, JSON_EXTRACT_PATH_TEXT(_ETL_SPECIAL, 'valid_until') AS VALID_UNTIL_TEXT FROM ORDERS WHERE _ETL_SPECIAL IS NOT NULL;
SELECT * FROM PRICES WHERE JSON_EXTRACT_PATH_TEXT(_ETL_SPECIAL, 'valid_until') = 'infinity' OR VALID_UNTIL > CURRENT_DATE;   -- still valid
```

Through `etl-supervisor sql` it looks the same: the column is empty, `_ETL_SPECIAL` has the text.

## VARIANT

A document goes in as it is; its numbers keep up to 38 digits. VARIANT keeps values, not spelling: space, the order of keys and `1.10` for
`1.1` are PostgreSQL's business. A document that VARIANT would change or refuse is a VARIANT **string** that holds the document's text as
PostgreSQL gave it (`TYPEOF(doc) = 'VARCHAR'`; `TRY_PARSE_JSON(doc::VARCHAR, 'd')` reads it as well as Snowflake can):

* a number of more than 38 digits, or with more than 37 after the point;
* in `json` only: a number with an exponent that a double would round (more than 15 digits, or beyond 1e±199); an object with the same key
  twice; `\\u0000` and halves of surrogate pairs.

So a document that is nothing but such a number looks like the string of its digits.

## Names

Names become upper case. A table of schema `public` keeps its name, a table of another schema gets it in front: `sales.orders` →
`SALES__ORDERS`, `LANDING_SALES__ORDERS`. Two columns or tables that would become one are refused, with a line that names them.

## Keys

A row is known by its replica identity index, else by its primary key (also under REPLICA IDENTITY FULL and NOTHING). A key does not count
when it is deferrable, when a column list leaves out a part of it, or when some partition of a table that is published by its root has
another identity, so that its deletes would not bring it. A table without a key is landed completely and has no current target table; an
update is landed as the delete of the old row and the insert of the new one.

PostgreSQL itself refuses updates and deletes that it could not identify (REPLICA IDENTITY NOTHING; no key and not FULL): the writer sees
the error, and inserts and truncates go on.
"""

if __name__ == "__main__":
    PAGE.write_text(page())
