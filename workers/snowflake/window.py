"""Landing rows of a window as SQL: each with its whole values, so that whatever reads them need not know about unchanged TOAST columns.

    v    every row of the window; ERA counts the truncates up to it
    f    the rows that are wanted (the caller says which)
    s    f with whole values, under the names of the target

Unchanged TOAST columns take the value of the latest row of the same *chain* that brought one, else the target's. A key's rows are cut into
lives, a new one at each I or R. The I of a key change continues the life that its D (same frame, ordinal one less) ended:

    position   1           2        3            4                5
    row        U k=1       D k=1    I k=2 ←1     U k=2            D k=2 …
    life       (1, 0)      (1, 0)   (2, 1)       (2, 1)           chain: (2, 1) → (1, 0), whose root is the target's row k=1

A copy can't cut a chain: it is one snapshot at S, and its rows are whole and begin a life just below S. Windows begin there: a change before S
comes before the copy and counts no more; a change from S on finds its row in the copy or in an I of the window. The first window holds the whole
copy. What no message has (a row that comes into a row filter) never gets here unresolved: the reader has the table copied again (`roster`), in a
later generation.

`_ETL_SPECIAL` is always the latest row's: special values are all small, and only large values are left out by TOAST. A special value in a key is
NULL in its column; its text takes part in telling rows apart (`key_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from etl_supervisor.model import names
from etl_supervisor.model.table import Column
from workers.snowflake.identifiers import literal, quoted
from workers.snowflake.sftypes import NEUTRAL

POSITION = ("_ETL_COMMIT_LSN", "_ETL_LSN", "_ETL_INDEX")
ORDER = ", ".join(POSITION)
LATEST = ", ".join(f"{name} DESC" for name in POSITION)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of a landing table and what may be among them.

    `source` is what follows FROM, with the landing table as `l`; `target_sql` holds the rows from before it (None: there were none).
    `unchanged` maps a column that may be left out to the condition on `f._ETL_UNCHANGED` that tells when it is; `moves`: keys may change;
    `truncates`: there may be truncates.
    """

    columns: tuple[Column, ...]
    source: str
    target_sql: str | None
    unchanged: Mapping[str, str]
    moves: bool
    truncates: bool

    @property
    def key_list(self) -> str:
        """What identifies a row, for PARTITION BY."""
        return ", ".join(key_of(self.columns))

    @property
    def rows(self) -> list[str]:
        """The common table expressions up to `v`."""
        return _rows(self)

    def whole(self, wanted: str, extra: Iterable[str] = (), joined: str = "") -> list[str]:
        """The common table expressions up to `s`; `wanted` selects f from v, `extra` are more columns of f (or of what is `joined` to it) for s."""
        return [*self.rows, f"f AS ({wanted})", f"s AS ({_values(self, extra, joined)})"]


def with_clause(parts: Iterable[str], *, recursive: bool = True) -> str:
    """WITH of common table expressions; `recursive`: one may call itself."""
    text = ",\n".join(parts)
    return f"WITH{' RECURSIVE' if recursive else ''} {text}\n"


def name_of(column: Column) -> str:
    """A column's name, quoted."""
    return quoted(names.column(column.name))


def key_of(columns: Iterable[Column], row: str = "") -> list[str]:
    """What identifies a row, never NULL. A key can be a value that lives in `_ETL_SPECIAL` (valid until infinity): then its text is part of it."""
    parts = []
    for column in columns:
        if column.key and column.type.kind in NEUTRAL:
            parts.append(f"COALESCE({row}{name_of(column)}, {NEUTRAL[column.type.kind]})")
            parts.append(f"COALESCE(GET(PARSE_JSON({row}_ETL_SPECIAL), {literal(column.name)})::VARCHAR, '')")
        elif column.key:
            parts.append(row + name_of(column))
    return parts


def same_key(columns: Iterable[Column], one: str, other: str) -> str:
    """The condition that two rows are of the same key; `one` and `other` are prefixes (`t.`)."""
    columns = tuple(columns)
    return " AND ".join(f"{a} = {b}" for a, b in zip(key_of(columns, one), key_of(columns, other), strict=True))


def may_be_unchanged(columns: Iterable[Column]) -> dict[str, str]:
    """The columns that an update may leave out, with the condition that tells it; for statements that are written before their rows are known."""
    # `["a","b"]` -> `,"a","b"]`: an item of it stands after a comma, and no name holds an unescaped quote.
    return {
        column.name: f"CONTAINS(',' || SUBSTR(f._ETL_UNCHANGED, 2), {literal(',' + orjson.dumps(column.name).decode())})"
        for column in columns
        if column.toastable and not column.key
    }


def _rows(window: Window) -> list[str]:
    keys = key_of(window.columns, "w.")
    era = f"SUM(IFF(_ETL_OP = 'T', 1, 0)) OVER (ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING)" if window.truncates else "0"
    if not window.unchanged:
        return [f"v AS (SELECT l.*, {era} AS ERA FROM {window.source})"]
    lives = f"SUM(IFF(_ETL_OP IN ('I', 'R'), 1, 0)) OVER (PARTITION BY {window.key_list} ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING)"
    parts = [
        f"w AS (SELECT l.*, ROW_NUMBER() OVER (ORDER BY {ORDER}) AS RN, {lives} AS LIFE, {era} AS ERA FROM {window.source})"
    ]
    root = [f"{key} AS ROOT_{i}" for i, key in enumerate(keys)] + ["w.LIFE AS ROOT_LIFE"]
    joined = "w"
    if window.moves:
        parts += _chains(window.columns)
        root = [f"COALESCE(r.P{i}, {key}) AS ROOT_{i}" for i, key in enumerate(keys)]
        root.append("COALESCE(r.PLIFE, w.LIFE) AS ROOT_LIFE")
        same = " AND ".join([f"r.C{i} = {key}" for i, key in enumerate(keys)] + ["r.CLIFE = w.LIFE"])
        joined = f"w LEFT JOIN roots r ON {same}"
    parts.append(f"c AS (SELECT w.*, {', '.join(root)} FROM {joined})")
    chain = ", ".join([*(f"ROOT_{i}" for i in range(len(keys))), "ROOT_LIFE"])
    brought = ", ".join(
        f"MAX(IFF(_ETL_OP IN ('D', 'T') OR COALESCE({leaves_out}, FALSE), NULL, RN)) OVER"
        f" (PARTITION BY {chain} ORDER BY RN ROWS UNBOUNDED PRECEDING) AS BROUGHT_{i}"
        for i, leaves_out in enumerate(window.unchanged.values())
    )
    return [*parts, f"v AS (SELECT f.*, {brought} FROM c f)"]


def _chains(columns: Iterable[Column]) -> list[str]:
    """Key changes: each child life with the life it continues, followed to the root."""
    columns = tuple(columns)
    keys = key_of(columns, "i.")
    child = ", ".join(f"{key} AS C{n}" for n, key in enumerate(keys))
    parent = ", ".join(f"{key} AS P{n}" for n, key in enumerate(key_of(columns, "d.")))
    c_list = ", ".join(f"C{n}" for n in range(len(keys)))
    p_list = ", ".join(f"P{n}" for n in range(len(keys)))
    meets = " AND ".join([f"l.C{n} = s.P{n}" for n in range(len(keys))] + ["l.CLIFE = s.PLIFE"])
    return [
        f"links AS (SELECT {child}, i.LIFE AS CLIFE, {parent}, d.LIFE AS PLIFE FROM w i JOIN w d"
        " ON d._ETL_COMMIT_LSN = i._ETL_COMMIT_LSN AND d._ETL_LSN = i._ETL_LSN AND d._ETL_INDEX = i._ETL_INDEX - 1"
        " AND d._ETL_OP = 'D' WHERE i._ETL_OLD_KEY IS NOT NULL)",
        f"steps AS (SELECT {c_list}, CLIFE, {p_list}, PLIFE FROM links UNION ALL SELECT"
        f" {', '.join(f's.C{n}' for n in range(len(keys)))}, s.CLIFE,"
        f" {', '.join(f'l.P{n}' for n in range(len(keys)))}, l.PLIFE FROM steps s JOIN links l ON {meets})",
        f"roots AS (SELECT s.* FROM steps s LEFT JOIN links l ON {meets} WHERE l.CLIFE IS NULL)",
    ]


def _values(window: Window, extra: Iterable[str], joined: str) -> str:
    """f with whole values: its own, those of the row of the chain that brought them, or the target's."""
    places = {name: i for i, name in enumerate(window.unchanged)}
    selected = [
        _value(column, places[column.name], window) if column.name in places else f"f.{name_of(column)}"
        for column in window.columns
    ]
    text = f"SELECT {', '.join([*selected, 'f._ETL_SPECIAL', *extra])} FROM f{joined}"
    if not places:
        return text
    text += "".join(f" LEFT JOIN w b{i} ON b{i}.RN = f.BROUGHT_{i}" for i in range(len(places)))
    if window.target_sql is None:
        return text
    before = " AND ".join(f"{key} = f.ROOT_{i}" for i, key in enumerate(key_of(window.columns, "t0.")))
    return f"{text} LEFT JOIN {window.target_sql} t0 ON f.ROOT_LIFE = 0 AND {before}"


def _value(column: Column, number: int, window: Window) -> str:
    name = name_of(column)
    resolved = f"b{number}.{name}"
    if window.target_sql is not None:
        resolved = f"IFF(f.BROUGHT_{number} IS NULL, t0.{name}, {resolved})"
    return f"IFF(COALESCE({window.unchanged[column.name]}, FALSE), {resolved}, f.{name}) AS {name}"
