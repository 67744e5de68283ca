"""`<TABLE>_HISTORY`: every version of every row that a transaction left, with when and where it was valid.

    _ETL_FROM_LSN, _ETL_VALID_FROM    the commit that made it (a copied row: when it was landed)
    _ETL_TO_LSN, _ETL_VALID_TO        the commit that ended it: the next change of its key, or a truncate; NULL: it is valid

Order is that of positions. A clock that goes back makes no version end before it begins: then it begins when it ends. What a transaction makes and
replaces by itself was never to be seen and is no version. A key change ends the version of the old key and begins one of the new.

A window's steps come before those of the target, whose rows still hold the values that the window's first rows leave out.
"""

from __future__ import annotations

from etl_supervisor.model.table import Column
from workers.snowflake.identifiers import Objects
from workers.snowflake.sftypes import HISTORY_META
from workers.snowflake.target import ERAS
from workers.snowflake.window import ORDER, Window, name_of, same_key, with_clause

_META = tuple(name for name, _ in HISTORY_META)
_OPEN = "h._ETL_TO_LSN IS NULL"


def closed(objects: Objects, at_lsn: str) -> str:
    """All versions end now: what follows is a copy of the whole table."""
    return (
        f"UPDATE {objects.history_sql} h SET _ETL_VALID_TO = CURRENT_TIMESTAMP(), _ETL_TO_LSN = {at_lsn} WHERE {_OPEN}"
    )


def begun(objects: Objects, columns: tuple[Column, ...], *, soft: bool) -> str:
    """A version of every row of the target."""
    names_ = [name_of(column) for column in columns]
    there = " WHERE NOT COALESCE(_ETL_DELETED, FALSE)" if soft else ""
    return (
        f"INSERT INTO {objects.history_sql} ({', '.join([*names_, *_META])}) SELECT {', '.join(names_)}, _ETL_SPECIAL,"
        f" COALESCE(_ETL_COMMIT_TS, CURRENT_TIMESTAMP()), NULL, _ETL_COMMIT_LSN, NULL FROM {objects.target_sql}{there}"
    )


def steps(window: Window, objects: Objects) -> list[str]:
    """A window's changes: versions that end, and versions that begin."""
    ends = [_ended_by_change(window, objects)]
    if window.truncates:
        ends.append(_ended_by_truncate(window, objects))
    return [*ends, _made(window, objects)]


def remade(window: Window, objects: Objects, base: int, keys: str) -> list[str]:
    """The versions of some keys (a condition) again, from a window that has all their rows since `base`."""
    return [f"DELETE FROM {objects.history_sql} WHERE _ETL_FROM_LSN >= {base} AND {keys}", _made(window, objects)]


def _ended_by_change(window: Window, objects: Objects) -> str:
    """The first change of each key before the first truncate."""
    first = f"SELECT * FROM v WHERE _ETL_OP <> 'T' QUALIFY ROW_NUMBER() OVER (PARTITION BY {window.key_list} ORDER BY {ORDER}) = 1"
    return (
        f"UPDATE {objects.history_sql} h SET {_end('s')} FROM (\n{with_clause([*window.rows, f'f AS ({first})'])}"
        f"SELECT * FROM f WHERE ERA = 0\n) s WHERE {_OPEN} AND {same_key(window.columns, 'h.', 's.')}"
    )


def _ended_by_truncate(window: Window, objects: Objects) -> str:
    first = f"SELECT _ETL_COMMIT_LSN, _ETL_COMMIT_TS FROM {window.source} AND _ETL_OP = 'T' ORDER BY {ORDER} LIMIT 1"
    return f"UPDATE {objects.history_sql} h SET {_end('e')} FROM ({first}) e WHERE {_OPEN}"


def _end(row: str) -> str:
    return (
        f"_ETL_TO_LSN = {row}._ETL_COMMIT_LSN, _ETL_VALID_TO = {row}._ETL_COMMIT_TS,"
        f" _ETL_VALID_FROM = LEAST(h._ETL_VALID_FROM, {row}._ETL_COMMIT_TS)"
    )


def _made(window: Window, objects: Objects) -> str:
    following = f"OVER (PARTITION BY {window.key_list} ORDER BY {ORDER})"
    wanted = (
        f"SELECT * FROM (SELECT v.*, LEAD(_ETL_COMMIT_LSN) {following} AS NEXT_LSN, LEAD(_ETL_COMMIT_TS) {following} AS NEXT_TS,"
        f" LEAD(ERA) {following} AS NEXT_ERA FROM v WHERE _ETL_OP <> 'T') q WHERE _ETL_OP <> 'D'"
    )
    same_era = "COALESCE(f.NEXT_ERA = f.ERA, FALSE)"
    ended_at = f"IFF({same_era}, f.NEXT_TS, e.ENDED_AT)"
    since = "COALESCE(f._ETL_COMMIT_TS, f._ETL_LOADED_AT)"
    extra = (
        f"IFF({ended_at} < {since}, {ended_at}, {since}) AS _ETL_VALID_FROM",
        f"{ended_at} AS _ETL_VALID_TO",
        "f._ETL_COMMIT_LSN AS _ETL_FROM_LSN",
        f"IFF({same_era}, f.NEXT_LSN, e.ENDED_LSN) AS _ETL_TO_LSN",
    )
    *rows, f, s = window.whole(wanted, extra, " LEFT JOIN e ON e.ERA = f.ERA + 1")
    columns = ", ".join([*(name_of(column) for column in window.columns), *_META])
    return (
        f"INSERT INTO {objects.history_sql} ({columns}) {with_clause([*rows, ERAS, f, s])}"
        f"SELECT {columns} FROM s WHERE _ETL_TO_LSN IS NULL OR _ETL_TO_LSN > _ETL_FROM_LSN"
    )
