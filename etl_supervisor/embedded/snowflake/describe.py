"""What every open of a table asks, answered without fakesnow: DESCRIBE TABLE and CREATE … IF NOT EXISTS of what is there.

fakesnow's view of all columns of all tables takes longer the more tables there are; DuckDB finds one by its name. Only comments have to be looked for
among all columns, and only those of a table that is there.
"""

from __future__ import annotations

import re
from typing import Any

from etl_supervisor.embedded.snowflake.answers import TEXT_LENGTH, texts
from etl_supervisor.embedded.snowflake.stages import NAME, parts_of
from etl_supervisor.embedded.snowflake.warehouse import NOTES, Warehouse

_DESCRIBE = re.compile(rf"\s*DESC(?:RIBE)?\s+TABLE\s+(?P<name>{NAME})\s*;?\s*$", re.I)
_CREATE = re.compile(
    rf"\s*CREATE\s+(?:(?P<schema>SCHEMA)|(?:TRANSIENT\s+)?TABLE)\s+IF\s+NOT\s+EXISTS\s+(?P<name>{NAME})\s*(?(schema)$|\()",
    re.I,
)
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_KINDS = {
    "BIGINT": "NUMBER(38,0)",
    "DOUBLE": "FLOAT",
    "BLOB": "BINARY(8388608)",
    "TIMESTAMP": "TIMESTAMP_NTZ(9)",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ(9)",
    "TIME": "TIME(9)",
    "JSON": "VARIANT",
}
_TITLES = (
    "name",
    "type",
    "kind",
    "null?",
    "default",
    "primary key",
    "unique key",
    "check",
    "expression",
    "comment",
    "policy name",
    "privacy domain",
)


def answer(warehouse: Warehouse, sql: str) -> dict[str, Any] | None:
    """The data of the answer; None for any other statement. LookupError: there is no such table."""
    if found := _DESCRIBE.match(sql):
        names = parts_of(found["name"])
        return _table(warehouse, names) if len(names) == 3 else None
    if found := _CREATE.match(sql):
        names = parts_of(found["name"])
        there = _has_schema(warehouse, names) if found["schema"] else _has_table(warehouse, names)
        return texts(("status",), [[f"{names[-1]} already exists, statement succeeded."]]) if there else None
    return None


def _has_schema(warehouse: Warehouse, names: list[str]) -> bool:
    return len(names) == 2 and warehouse.has_schema(*names)


def _has_table(warehouse: Warehouse, names: list[str]) -> bool:
    return len(names) == 3 and bool(warehouse.described(*names))


def _table(warehouse: Warehouse, table: list[str]) -> dict[str, Any]:
    columns = warehouse.described(*table)
    if not columns:
        raise LookupError(".".join(table))
    cursor = warehouse.cursor()
    lengths = _pairs(
        cursor.execute(
            f"SELECT ext_column_name, ext_character_maximum_length FROM {NOTES}._fs_columns_ext"
            " WHERE ext_table_catalog = ? AND ext_table_schema = ? AND ext_table_name = ?",
            table,
        )
    )
    comments = _pairs(
        cursor.execute(
            "SELECT column_name, comment FROM duckdb_columns()"
            " WHERE database_name = ? AND schema_name = ? AND table_name = ?",
            table,
        )
    )
    rows = []
    for name, kind, nullable, default in columns:
        spelled = f"VARCHAR({lengths.get(name) or TEXT_LENGTH})" if kind == "VARCHAR" else _spelled(kind)
        null = "Y" if nullable else "N"
        rows.append([name, spelled, "COLUMN", null, default, "N", "N", None, None, comments.get(name), None, None])
    return texts(_TITLES, rows)


def _spelled(kind: str) -> str:
    return _KINDS.get(kind) or _DECIMAL.sub(r"NUMBER(\1,\2)", kind)


def _pairs(cursor: Any) -> dict[str, Any]:
    return dict(cursor.fetchall())
