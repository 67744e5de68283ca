"""What moves the target of a table with a key: of each key the latest row of the window decides.

hard    D deletes, anything else is upserted; a truncate empties the target first
soft    what a D or a truncate ends stays as it last was, with `_ETL_DELETED` and `_ETL_DELETED_AT`: also a row that came and went in one window, so
        that the target does not depend on where windows are cut
"""

from __future__ import annotations

from workers.snowflake.sftypes import SOFT_META, TARGET_META
from workers.snowflake.window import LATEST, ORDER, POSITION, Window, name_of, same_key, with_clause

# The rows that hold the window's truncates: the ERA of one is its number.
ERAS = "e AS (SELECT ERA, _ETL_COMMIT_LSN AS ENDED_LSN, _ETL_COMMIT_TS AS ENDED_AT FROM v WHERE _ETL_OP = 'T')"


def latest(window: Window) -> str:
    """Selects the latest row of each key after the last truncate."""
    after = " AND ERA = (SELECT COUNT(*) FROM v WHERE _ETL_OP = 'T')" if window.truncates else ""
    return (
        f"SELECT * FROM v WHERE _ETL_OP <> 'T'{after}"
        f" QUALIFY ROW_NUMBER() OVER (PARTITION BY {window.key_list} ORDER BY {LATEST}) = 1"
    )


def current(window: Window) -> list[str]:
    """The expressions up to s: the latest row of each key, with its operation and position."""
    return window.whole(latest(window), ("f._ETL_OP", "f._ETL_COMMIT_LSN", "f._ETL_COMMIT_TS"))


def emptied(target_sql: str, *, soft: bool) -> str:
    """Before the first window of a generation, which has all rows there are: what it does not have was deleted in a gap,
    at a place of another generation."""
    if not soft:
        return f"DELETE FROM {target_sql}"
    return (
        f"UPDATE {target_sql} SET _ETL_DELETED = TRUE, _ETL_DELETED_AT = CURRENT_TIMESTAMP(), _ETL_COMMIT_LSN = 0"
        " WHERE NOT COALESCE(_ETL_DELETED, FALSE)"
    )


def truncated(window: Window, *, soft: bool) -> str:
    """What a truncate in the window does to the rows that are there."""
    if not soft:
        return f"DELETE FROM {window.target_sql} WHERE (SELECT COUNT(*) FROM {window.source} AND _ETL_OP = 'T') > 0"
    first = f"SELECT _ETL_COMMIT_LSN, _ETL_COMMIT_TS FROM {window.source} AND _ETL_OP = 'T' ORDER BY {ORDER} LIMIT 1"
    return (
        f"UPDATE {window.target_sql} t SET _ETL_DELETED = TRUE, _ETL_DELETED_AT = e._ETL_COMMIT_TS,"
        f" _ETL_COMMIT_LSN = e._ETL_COMMIT_LSN, _ETL_COMMIT_TS = e._ETL_COMMIT_TS FROM ({first}) e"
        " WHERE NOT COALESCE(t._ETL_DELETED, FALSE)"
    )


def merge(window: Window, *, soft: bool, between: str = "") -> str:
    """The MERGE of a window; `between` narrows the target's rows (as `t`) to the window's keys."""
    columns = [name_of(column) for column in window.columns] + [name for name, _ in TARGET_META]
    keys = [name_of(column) for column in window.columns if column.key]
    on = same_key(window.columns, "t.", "s.") + between
    plain = [column for column in columns if column not in keys]
    if soft:
        return _soft(window, on, columns, plain)
    return (
        f"MERGE INTO {window.target_sql} t USING (\n{with_clause(current(window))}SELECT * FROM s\n) s ON {on}\n"
        " WHEN MATCHED AND s._ETL_OP = 'D' THEN DELETE\n"
        f" WHEN MATCHED THEN UPDATE SET {_sets(plain)}\n"
        f" WHEN NOT MATCHED AND s._ETL_OP <> 'D' THEN {_insert(columns)}"
    )


def _soft(window: Window, on: str, columns: list[str], plain: list[str]) -> str:
    """The latest row that is whole, if the window has one, and how the key ended, if it did."""
    deleted = [name for name, _ in SOFT_META]
    marks = [*deleted, "_ETL_COMMIT_LSN", "_ETL_COMMIT_TS"]
    return (
        f"MERGE INTO {window.target_sql} t USING (\n{with_clause(_ended(window))}SELECT * FROM s\n) s ON {on}\n"
        f" WHEN MATCHED AND s._ETL_OP = 'D' THEN UPDATE SET {_sets(marks)}\n"
        f" WHEN MATCHED THEN UPDATE SET {_sets([*plain, *deleted])}\n"
        f" WHEN NOT MATCHED AND s._ETL_OP <> 'D' THEN {_insert([*columns, *deleted])}"
    )


def _ended(window: Window) -> list[str]:
    last = f"OVER (PARTITION BY {window.key_list} ORDER BY {LATEST}) AS LAST_"
    seen = ", ".join(
        f"FIRST_VALUE({name}) {last}{number}"
        for number, name in enumerate(("_ETL_OP", "ERA", *POSITION[:1], "_ETL_COMMIT_TS"))
    )
    wanted = (
        f"SELECT * FROM (SELECT v.*, {seen} FROM v WHERE _ETL_OP <> 'T') q QUALIFY ROW_NUMBER() OVER"
        f" (PARTITION BY {window.key_list} ORDER BY IFF(_ETL_OP = 'D', 1, 0), {LATEST}) = 1"
    )
    by_truncate = "f.LAST_0 <> 'D' AND e.ERA IS NOT NULL"
    extra = (
        "f._ETL_OP",
        f"(f.LAST_0 = 'D' OR {by_truncate}) AS _ETL_DELETED",
        f"IFF({by_truncate}, e.ENDED_AT, IFF(f.LAST_0 = 'D', f.LAST_3, NULL)) AS _ETL_DELETED_AT",
        f"IFF({by_truncate}, e.ENDED_LSN, f.LAST_2) AS _ETL_COMMIT_LSN",
        f"IFF({by_truncate}, e.ENDED_AT, f.LAST_3) AS _ETL_COMMIT_TS",
    )
    *rows, f, s = window.whole(wanted, extra, " LEFT JOIN e ON e.ERA = f.LAST_1 + 1")
    return [*rows, ERAS, f, s]


def _sets(columns: list[str]) -> str:
    return ", ".join(f"{column} = s.{column}" for column in columns)


def _insert(columns: list[str]) -> str:
    return f"INSERT ({', '.join(columns)}) VALUES ({', '.join(f's.{column}' for column in columns)})"
