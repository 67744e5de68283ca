"""Landing rows of a window as SQL, with whole values, so that whatever reads them need not know about unchanged TOAST columns or the dead letter.

    w    the rows of the window; RN is the place of each
    v    those that can be made whole, by their keys and places; ERA counts the truncates up to each
    f    the rows that are wanted (the caller says which)
    s    f as the target has it: only now values are looked up, of the wanted rows alone

Unchanged TOAST columns take the value of the latest row of the same *chain* that brought one, else the target's. A key's rows are cut into
lives, a new one at each I or R. The I of a key change continues the life that its D (same frame, ordinal one less) ended:

    position   1           2        3            4                5
    row        U k=1       D k=1    I k=2 ←1     U k=2            D k=2 …
    life       (1, 0)      (1, 0)   (2, 1)       (2, 1)           chain: (2, 1) → (1, 0), whose root is the target's row k=1

A copy can't cut a chain: it is one snapshot at S, and its rows are whole and begin a life just below S. Windows begin there: a change before S
comes before the copy and counts no more; a change from S on finds its row in the copy or in an I of the window. The first window holds the whole
copy. What no message has (a row that comes into a row filter) never gets here unresolved: the reader has the table copied again (`roster`), in a
later generation.

A row that is in the dead letter takes its place in the chain as one that brought values nobody has here (but for those that it left out itself). A
row that needs one of them, or whose chain ends where the target has no row, can't be made whole: of each key the latest row that can be decides, so
the target keeps an older row rather than showing a half one, until the dead row is replayed or its values are written once more. A target
row that is younger than a dead row (`_ETL_COMMIT_LSN`) was made whole without it.

`_ETL_SPECIAL` is always the latest row's: special values are all small, and only large values are left out by TOAST. A special value in a key is
NULL in its column; its text takes part in telling rows apart (`key_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from etl_supervisor.model.table import Column, Table
from workers.snowflake.identifiers import Objects, literal, quoted
from workers.snowflake.sftypes import NEUTRAL, column_type

POSITION = ("_ETL_COMMIT_LSN", "_ETL_LSN", "_ETL_INDEX")
ORDER = ", ".join(POSITION)
LATEST = ", ".join(f"{name} DESC" for name in POSITION)


MOMENT = ("_ETL_SPECIAL", "_ETL_COMMIT_TS", "_ETL_LOADED_AT")
DEAD_MOVE = "(OP = 'I' AND MOD(ORDINAL, 2) = 1)"  # only the insert of a key change has an odd place


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of a landing table and what may be among them.

    `source` is what follows FROM, with the landing table as `l`; `dead` the same of the dead rows that may stand in a chain of the window
    (None: there are none). `target_sql` holds the rows from before (None: there were none). `unchanged` maps a column that may be left out to
    the condition on `_ETL_UNCHANGED` that tells when it is; `moves`: keys may change; `truncates`: there may be truncates.
    """

    columns: tuple[Column, ...]
    source: str
    target_sql: str | None
    unchanged: Mapping[str, str] = field(default_factory=dict)
    moves: bool = False
    truncates: bool = True
    dead: str | None = None

    @property
    def key_list(self) -> str:
        """What identifies a row, for PARTITION BY."""
        return ", ".join(key_of(self.columns))

    @property
    def rows(self) -> list[str]:
        """The common table expressions up to `v`."""
        return _resolved(self) if self.unchanged else [f"v AS (SELECT l.*, {_era(self)} AS ERA FROM {self.source})"]

    def whole(self, wanted: str, extra: Iterable[str] = (), joined: str = "") -> list[str]:
        """The common table expressions up to `s`; `wanted` selects f from v, `extra` are more columns of f (or of what is `joined` to it) for s."""
        values = _values(self) if self.unchanged else [f"f.{name_of(column)}" for column in self.columns]
        found = f"SELECT {', '.join([*values, 'f._ETL_SPECIAL', *extra])} FROM f{joined}{_lookups(self)}"
        return [*self.rows, f"f AS ({wanted})", f"s AS ({found})"]


def with_clause(parts: Iterable[str], *, recursive: bool = True) -> str:
    """WITH of common table expressions; `recursive`: one may call itself."""
    text = ",\n".join(parts)
    return f"WITH{' RECURSIVE' if recursive else ''} {text}\n"


def name_of(column: Column) -> str:
    """A column's name, quoted."""
    return quoted(column.landed)


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


def dead_rows(objects: Objects, generation: str) -> str:
    """The heads of a table's dead rows, as what follows FROM; `generation` is SQL."""
    return f"{objects.dead_letter_sql} WHERE PART = 0 AND LANDING_TABLE = {literal(objects.landing)} AND GENERATION = {generation}"


def may_be_unchanged(table: Table) -> dict[str, str]:
    """The columns that an update may leave out, with the condition that tells it; for statements that are written before their rows are known.
    Without a key there are none: an update brings the whole row that it replaces."""
    # `["a","b"]` -> `,"a","b"]`: an item of it stands after a comma, and no name holds an unescaped quote.
    return {
        column.name: f"CONTAINS(',' || SUBSTR(_ETL_UNCHANGED, 2), {literal(',' + orjson.dumps(column.name).decode())})"
        for column in table.columns
        if table.key and column.toastable and not column.key
    }


def _era(window: Window) -> str:
    if not window.truncates:
        return "0"
    return f"SUM(IFF(_ETL_OP = 'T', 1, 0)) OVER (ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING)"


def _resolved(window: Window) -> list[str]:
    """Rows of a window in which values are left out."""
    keys = key_of(window.columns, "w.")
    lives = f"SUM(IFF(_ETL_OP IN ('I', 'R'), 1, 0)) OVER (PARTITION BY {window.key_list} ORDER BY {ORDER} ROWS UNBOUNDED PRECEDING)"
    parts = [
        f"w AS (SELECT l.*, ROW_NUMBER() OVER (ORDER BY {ORDER}) AS RN, {lives} AS LIFE, {_era(window)} AS ERA"
        f" FROM (\n{_landed_and_dead(window)}\n) l)"
    ]
    root = [f"{key} AS ROOT_{i}" for i, key in enumerate(keys)] + ["w.LIFE AS ROOT_LIFE"]
    joined = "w"
    if window.moves:
        parts += _chains(window.columns)
        root = [f"COALESCE(r.P{i}, {key}) AS ROOT_{i}" for i, key in enumerate(keys)]
        root.append("COALESCE(r.PLIFE, w.LIFE) AS ROOT_LIFE")
        same = " AND ".join([f"r.C{i} = {key}" for i, key in enumerate(keys)] + ["r.CLIFE = w.LIFE"])
        joined = f"w LEFT JOIN roots r ON {same}"
    narrow = ["RN", "ERA", "DEAD", "_ETL_OP", *POSITION, *MOMENT, *(name_of(c) for c in window.columns if c.key)]
    left_out = [f"COALESCE({text}, FALSE) AS LEFT_OUT_{i}" for i, text in enumerate(window.unchanged.values())]
    parts.append(f"c AS (SELECT {', '.join([*(f'w.{name}' for name in narrow), *left_out, *root])} FROM {joined})")
    chain = ", ".join([*(f"ROOT_{i}" for i in range(len(keys))), "ROOT_LIFE"])
    over = f"OVER (PARTITION BY {chain} ORDER BY RN ROWS UNBOUNDED PRECEDING)"
    brought = ", ".join(
        f"MAX(IFF(_ETL_OP IN ('D', 'T') OR LEFT_OUT_{i}{dead}, NULL, RN)) {over} AS {name}_{i}"
        for i in range(len(window.unchanged))
        for name, dead in ([("BROUGHT", "")] if window.dead is None else [("BROUGHT", ""), ("ALIVE", " OR DEAD")])
    )
    return [*parts, f"p AS (SELECT c.*, {brought} FROM c)", f"v AS ({_can_be_whole(window)})"]


def _landed_and_dead(window: Window) -> str:
    """The landed rows of the window, and the dead ones up to its end that no row of the target has outlived."""
    taken = ["_ETL_OP", *POSITION, "_ETL_UNCHANGED", "_ETL_OLD_KEY", *MOMENT, *map(name_of, window.columns)]
    landed = f"SELECT {', '.join(f'l.{name}' for name in taken)}, FALSE AS DEAD FROM {window.source}"
    if window.dead is None:
        return landed
    values = [
        ("OP", "_ETL_OP"),
        *zip(("COMMIT_LSN", "LSN", "ORDINAL"), POSITION, strict=True),
        ("UNCHANGED", "_ETL_UNCHANGED"),
        (f"IFF({DEAD_MOVE}, '{{}}', NULL)", "_ETL_OLD_KEY"),
        ("SPECIAL", "_ETL_SPECIAL"),
        ("NULL", "_ETL_COMMIT_TS"),
        ("NULL", "_ETL_LOADED_AT"),
        *((_dead_key(column) if column.key else "NULL", name_of(column)) for column in window.columns),
    ]
    dead = ", ".join(f"{value} AS {name}" for value, name in values)
    text = (
        f"{landed}\nUNION ALL\nSELECT {', '.join(f'x.{name}' for name in taken)}, TRUE FROM"
        f" (SELECT {dead} FROM {window.dead}) x"
    )
    if window.target_sql is None:
        return text
    outlived = same_key(window.columns, "t.", "x.")
    return (
        f"{text} LEFT JOIN {window.target_sql} t ON {outlived} AND t._ETL_COMMIT_LSN > x._ETL_COMMIT_LSN"
        " WHERE t._ETL_COMMIT_LSN IS NULL"
    )


def _dead_key(column: Column) -> str:
    """A key column of a dead row; the forms are those of `ndjson`."""
    member = f"PARSE_JSON(ROW_KEY):{quoted(column.name)}"
    kind = column_type(column.type)
    if kind.startswith("VARIANT"):
        return f"STRIP_NULL_VALUE({member})"
    if kind.startswith("BINARY"):
        return f"TO_BINARY({member}::VARCHAR, 'BASE64')"
    return f"{member}::VARCHAR::{kind}"


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


def _can_be_whole(window: Window) -> str:
    """The rows of p whose values are all somewhere: in the row itself, in a row of the chain that is here, or in the target."""
    places = range(len(window.unchanged))
    alive = "TRUE" if window.dead is None else "p.ALIVE_{0} = p.BROUGHT_{0}"
    there = "FALSE" if window.target_sql is None else "t0._ETL_COMMIT_LSN IS NOT NULL"
    whole = " AND ".join(
        f"(NOT p.LEFT_OUT_{i} OR IFF(p.BROUGHT_{i} IS NULL, {there}, COALESCE({alive.format(i)}, FALSE)))"
        for i in places
    )
    return f"SELECT p.* FROM p{_rooted(window, 'p')} WHERE NOT p.DEAD AND (p._ETL_OP IN ('D', 'T') OR ({whole}))"


def _rooted(window: Window, row: str) -> str:
    """The join of the target's row at the root of a chain, for rows that need a value of it."""
    if window.target_sql is None:
        return ""
    places = range(len(window.unchanged))
    needed = " OR ".join(f"({row}.LEFT_OUT_{i} AND {row}.BROUGHT_{i} IS NULL)" for i in places)
    root = " AND ".join(f"{key} = {row}.ROOT_{i}" for i, key in enumerate(key_of(window.columns, "t0.")))
    return f" LEFT JOIN {window.target_sql} t0 ON {row}.ROOT_LIFE = 0 AND ({needed}) AND {root}"


def _lookups(window: Window) -> str:
    """The joins of s that bring values: the row itself, the rows of its chain that brought what it leaves out, the target's row."""
    if not window.unchanged:
        return ""
    brought = "".join(
        f" LEFT JOIN w b{i} ON f.LEFT_OUT_{i} AND b{i}.RN = f.BROUGHT_{i}" for i in range(len(window.unchanged))
    )
    return f" JOIN w o ON o.RN = f.RN{brought}{_rooted(window, 'f')}"


def _values(window: Window) -> list[str]:
    """The columns of s."""
    places = {name: i for i, name in enumerate(window.unchanged)}
    return [
        _resolved_value(name_of(column), places[column.name], window)
        if column.name in places
        else f"{'f' if column.key else 'o'}.{name_of(column)}"
        for column in window.columns
    ]


def _resolved_value(name: str, number: int, window: Window) -> str:
    resolved = f"b{number}.{name}"
    if window.target_sql is not None:
        resolved = f"IFF(f.BROUGHT_{number} IS NULL, t0.{name}, {resolved})"
    return f"IFF(f.LEFT_OUT_{number}, {resolved}, o.{name}) AS {name}"
