"""The target of a table without a key: a multiset, brought forward by the difference that a window makes.

Equal rows have numbers, `_ETL_COPY` 1 to n. Of each value the window's inserts and deletes cancel out; what is left takes the next numbers or
gives back the last ones. Under the watermark's compare-and-set a window counts once, however often its block comes.

A delete must bring the whole row: the source needs REPLICA IDENTITY FULL (or it has no updates and deletes).
"""

from __future__ import annotations

from collections.abc import Iterable

from etl_supervisor.model.table import Column
from workers.snowflake.sftypes import COPY, TARGET_META, column_type
from workers.snowflake.window import ORDER, Window, name_of, with_clause

COLUMNS = (*(name for name, _ in TARGET_META), COPY)


def difference(window: Window) -> list[str]:
    """The expressions up to s: the rows to add (I) and to take away (D), with their numbers."""
    value = ", ".join(_value(window))
    after = " AND ERA = (SELECT COUNT(*) FROM v WHERE _ETL_OP = 'T')" if window.truncates else ""
    of_value = f"OVER (PARTITION BY {value})"
    side = "IFF(_ETL_OP = 'D', 'D', 'I')"
    counted = (
        f"SELECT v.*, {side} AS SIDE, ROW_NUMBER() OVER (PARTITION BY {value}, {side} ORDER BY {ORDER}) AS NTH,"
        f" SUM(IFF(_ETL_OP = 'D', 1, 0)) {of_value} AS WENT, SUM(IFF(_ETL_OP = 'D', 0, 1)) {of_value} AS CAME"
        f" FROM v WHERE _ETL_OP <> 'T'{after}"
    )
    had = f"SELECT {_named(window)}, MAX({COPY}) AS HAD FROM {window.target_sql} GROUP BY ALL"
    if window.target_sql is None:
        had = f"SELECT {_named(window)}, 0 AS HAD FROM v WHERE FALSE"
    elif window.truncates:
        had = f"SELECT * FROM ({had}) q WHERE (SELECT COUNT(*) FROM v WHERE _ETL_OP = 'T') = 0"
    number = "IFF(SIDE = 'D', COALESCE(h.HAD, 0) - (NTH - CAME) + 1, COALESCE(h.HAD, 0) + NTH - WENT)"
    same = " AND ".join(f"EQUAL_NULL({one}, h.V{i})" for i, one in enumerate(_value(window, "f.")))
    columns = ", ".join(f"f.{name}" for name in (*map(name_of, window.columns), *(name for name, _ in TARGET_META)))
    return [
        *window.rows,
        f"n AS ({counted})",
        "f AS (SELECT * FROM n WHERE NTH > IFF(SIDE = 'D', CAME, WENT))",
        f"h AS ({had})",
        f"s AS (SELECT {columns}, SIDE AS _ETL_OP, {number} AS {COPY} FROM f LEFT JOIN h ON {same})",
    ]


def same_row(window: Window, one: str, other: str) -> str:
    """The condition that two rows have the same values and number."""
    values = zip(_value(window, one), _value(window, other), strict=True)
    return " AND ".join([f"{one}{COPY} = {other}{COPY}", *(f"EQUAL_NULL({a}, {b})" for a, b in values)])


def same_value(columns: Iterable[Column], own: str) -> str:
    """The condition that a row has the values of the one row that `own` (what follows SELECT) brings."""
    parts = [_of_column(column) for column in columns]
    return " AND ".join(f"EQUAL_NULL({part}, (SELECT {part} {own}))" for part in [*parts, "_ETL_SPECIAL"])


def merge(window: Window) -> str:
    """The MERGE of a window."""
    columns = ", ".join([*map(name_of, window.columns), *COLUMNS])
    values = ", ".join([*(f"s.{name_of(column)}" for column in window.columns), *(f"s.{name}" for name in COLUMNS)])
    return (
        f"MERGE INTO {window.target_sql} t USING (\n{with_clause(difference(window))}SELECT * FROM s\n) s"
        f" ON {same_row(window, 't.', 's.')}\n"
        " WHEN MATCHED AND s._ETL_OP = 'D' THEN DELETE\n"
        f" WHEN NOT MATCHED AND s._ETL_OP <> 'D' THEN INSERT ({columns}) VALUES ({values})"
    )


def _value(window: Window, row: str = "") -> list[str]:
    """What makes two rows equal; documents by their text."""
    values = [_of_column(column, row) for column in window.columns]
    return [*values, f"{row}_ETL_SPECIAL"]


def _of_column(column: Column, row: str = "") -> str:
    name = row + name_of(column)
    return f"TO_JSON({name})" if column_type(column.type) == "VARIANT" else name


def _named(window: Window) -> str:
    return ", ".join(f"{value} AS V{i}" for i, value in enumerate(_value(window)))
