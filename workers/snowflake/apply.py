"""Brings a target up to a fence: one server-side block, so that a dead actor can leave nothing half done.

    window    landing rows of this generation with applied <= commit_lsn < fence; all durable, so it never changes
    survey    one read: are there rows, truncates, key changes, unchanged TOAST columns? It only chooses which SQL is written
    block     BEGIN; compare-and-set of the watermark (owner, generation, applied, epoch); [DELETE]; MERGE; COMMIT

The compare-and-set comes first in the transaction. A block that comes twice, or that a dead actor left running, finds the watermark moved and does
nothing; two blocks at once wait for each other at the watermark's row. That makes a guard on positions inside the MERGE unnecessary.

The first apply of a generation replaces the target (rows deleted in a gap disappear). A truncate in the window empties it, and only
rows after the last one count. Of each key the latest row decides: D deletes, anything else is upserted.

Unchanged TOAST columns take the value of the latest row of the same *chain* that brought one, else the target's. A key's rows are cut into
lives, a new one at each I or R. The I of a key change continues the life that its D (same frame, ordinal one less) ended:

    position   1           2        3            4                5
    row        U k=1       D k=1    I k=2 ←1     U k=2            D k=2 …
    life       (1, 0)      (1, 0)   (2, 1)       (2, 1)           chain: (2, 1) → (1, 0), whose root is the target's row k=1

A copy can't cut a chain: it is one snapshot at S, and its rows are whole and begin a life just below S. A change before S comes before them and
counts no more; a change from S on finds its row in the copy or in an I of the window. The first window holds the whole copy. What no message has
(a row that comes into a row filter) never gets here unresolved: the reader has the table copied again (`roster`), in a later generation.

A row that is in the dead letter takes its place in the chain as one that brought values nobody has here (but for those that it left out itself). A
row that needs one of them, or whose chain ends where the target has no row, can't be made whole: of each key the latest row that can be decides, so
the target keeps an older row rather than showing a half one, until the dead row is replayed or its values are written once more. A target
row that is younger than a dead row (`_ETL_COMMIT_LSN`) was made whole without it.

`_ETL_SPECIAL` is always the latest row's: special values are all small, and only large values are left out by TOAST. A special value in a key is
NULL in its column; its text takes part in telling rows apart (`_key`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.table import Column, Table
from workers.snowflake.connection import classify
from workers.snowflake.ddl import DOES_NOT_EXIST, Watermark
from workers.snowflake.identifiers import Objects, literal, objects_of, quoted
from workers.snowflake.sftypes import NEUTRAL, TARGET_META, column_type

POSITION = ("_ETL_COMMIT_LSN", "_ETL_LSN", "_ETL_INDEX")
_ORDER = ", ".join(POSITION)
_LATEST = ", ".join(f"{name} DESC" for name in POSITION)
_MOMENT = ("_ETL_SPECIAL", "_ETL_COMMIT_TS")
_DEAD_MOVE = "(OP = 'I' AND MOD(ORDINAL, 2) = 1)"  # only the insert of a key change has an odd place
MOVED = "fence moved"


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of a generation with applied <= commit_lsn < fence, and `also` a condition of its own."""

    generation: int
    applied: int
    fence: int
    also: str = ""

    @property
    def landed(self) -> str:
        """As a condition on the landing table."""
        return (
            f"_ETL_GENERATION = {self.generation} AND _ETL_COMMIT_LSN >= {self.applied} AND _ETL_COMMIT_LSN < {self.fence}"
            + self.also
        )

    def dead(self, objects: Objects) -> str:
        """The dead rows that may stand in a chain of the window, as a condition on the dead letter."""
        return (
            f"PART = 0 AND LANDING_TABLE = {literal(objects.landing)} AND GENERATION = {self.generation}"
            f" AND COMMIT_LSN < {self.fence}"
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a window. `truncated_at` is the position of its last truncate; `unchanged` maps a column to the texts that name it.

    `dead` says that rows of the dead letter may matter.
    """

    rows: int
    truncated_at: tuple[int, int, int] | None
    moves: bool
    unchanged: dict[str, tuple[str, ...]]
    dead: bool = False


def apply(connection: Any, opening: OpenTable, watermark: Watermark, fence: int) -> Watermark:
    """Apply the window up to `fence`; the watermark afterwards. EtlError(APPLY) when the block failed: then nothing was changed."""
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    if not opening.table.key:
        remedy = "add a primary key or a replica identity index; the landing table has every change"
        raise EtlError(Kind.SCHEMA, place, "a table without a key has no target to keep current", remedy)
    if fence <= watermark.applied:
        return watermark
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            found = survey(cursor, objects, Window(opening.generation, watermark.applied, fence))
            text = block(opening, objects, watermark, fence, found)
            (outcome,) = cursor.execute(text).fetchone()
            if outcome == MOVED:
                return _read(cursor, objects, place)
    except Error as error:
        raise classify(error, place, Kind.APPLY) from None
    return Watermark(opening.generation, fence, opening.epoch)


def survey(cursor: Any, objects: Objects, window: Window) -> Survey:
    """Look at a window."""
    rows, truncates, moves, unchanged = cursor.execute(
        "SELECT COUNT(*), COUNT_IF(_ETL_OP = 'T'), COUNT(_ETL_OLD_KEY), COUNT(_ETL_UNCHANGED)"
        f" FROM {objects.landing_sql} WHERE {window.landed}"
    ).fetchone()
    at = None
    if truncates:
        row = cursor.execute(
            f"SELECT {_ORDER} FROM {objects.landing_sql} WHERE {window.landed} AND _ETL_OP = 'T' ORDER BY {_LATEST} LIMIT 1"
        ).fetchone()
        at = (int(row[0]), int(row[1]), int(row[2]))
    if not unchanged:
        return Survey(int(rows), at, bool(moves), {})
    found = cursor.execute(
        f"SELECT DISTINCT _ETL_UNCHANGED FROM {objects.landing_sql} WHERE {window.landed} AND _ETL_UNCHANGED IS NOT NULL"
    ).fetchall()
    dead = _dead_ones(cursor, objects, window)
    texts = sorted({row[0] for row in found} | {text for text, _ in dead if text is not None})
    return Survey(int(rows), at, bool(moves) or any(moved for _, moved in dead), _by_column(texts), bool(dead))


def _dead_ones(cursor: Any, objects: Objects, window: Window) -> list[tuple[str | None, bool]]:
    """Of the dead rows: what they left out, and whether one is the insert of a key change. Without a dead letter there are none."""
    try:
        rows = cursor.execute(
            f"SELECT DISTINCT UNCHANGED, {_DEAD_MOVE} FROM {objects.dead_letter_sql} WHERE {window.dead(objects)}"
        ).fetchall()
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return []
        raise
    return [(text, bool(moved)) for text, moved in rows]


def _by_column(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """JSON arrays of column names -> column -> the arrays that name it."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        for name in orjson.loads(text):
            found[name] = (*found.get(name, ()), text)
    return found


def _read(cursor: Any, objects: Objects, place: str) -> Watermark:
    row = cursor.execute(
        f"SELECT GENERATION, APPLIED, EPOCH FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    ).fetchone()
    if row is None:
        raise EtlError(Kind.APPLY, place, "the watermark row is gone", "restart the pipeline: it is made again")
    return Watermark(*(int(value) for value in row))


# -- the statements


def block(opening: OpenTable, objects: Objects, watermark: Watermark, fence: int, survey: Survey) -> str:
    """The whole apply as one statement."""
    steps = [
        f"UPDATE {objects.watermark_sql} SET APPLIED = {fence}, EPOCH = {opening.epoch}, UPDATED_AT = CURRENT_TIMESTAMP()"
        f" WHERE LANDING_TABLE = {literal(objects.landing)} AND OWNER = {literal(opening.owner)}"
        f" AND GENERATION = {opening.generation} AND APPLIED = {watermark.applied} AND EPOCH <= {opening.epoch}",
        f"IF (SQLROWCOUNT <> 1) THEN\n    ROLLBACK;\n    RETURN '{MOVED}';\n  END IF",
    ]
    if watermark.applied == 0 or survey.truncated_at is not None:
        steps.append(f"DELETE FROM {objects.target_sql}")
    if survey.rows:
        steps.append(merge(opening.table, objects, Window(opening.generation, watermark.applied, fence), survey))
    return transaction(steps, "applied")


def transaction(steps: list[str], outcome: str) -> str:
    """Steps as one server-side block that returns `outcome`; what fails rolls back and raises."""
    body = ";\n  ".join(["BEGIN TRANSACTION", *steps, "COMMIT", f"RETURN '{outcome}'"])
    text = f"BEGIN\n  {body};\nEXCEPTION\n  WHEN OTHER THEN\n    ROLLBACK;\n    RAISE;\nEND;"
    return f"EXECUTE IMMEDIATE {literal(text)}" if "$$" in text else f"EXECUTE IMMEDIATE $$\n{text}\n$$"


def merge(table: Table, objects: Objects, window: Window, survey: Survey) -> str:
    """The MERGE of a window into the target."""
    if survey.truncated_at is not None:
        window = replace(window, also=f"{window.also} AND {_after(survey.truncated_at)} AND _ETL_OP <> 'T'")
    unchanged = [column for column in table.columns if column.name in survey.unchanged]
    every = list(table.columns)
    source = _resolved(every, unchanged, objects, window, survey) if unchanged else _latest(every, objects, window)
    columns = [quoted(names.column(column.name)) for column in table.columns] + [name for name, _ in TARGET_META]
    keys = [quoted(names.column(column.name)) for column in table.key]
    on = " AND ".join(f"{one} = {other}" for one, other in zip(key_of(every, "t."), key_of(every, "s."), strict=True))
    sets = ", ".join(f"{column} = s.{column}" for column in columns if column not in keys)
    return (
        f"MERGE INTO {objects.target_sql} t USING (\n{source}\n) s ON {on}\n"
        " WHEN MATCHED AND s._ETL_OP = 'D' THEN DELETE\n"
        f" WHEN MATCHED THEN UPDATE SET {sets}\n"
        f" WHEN NOT MATCHED AND s._ETL_OP <> 'D' THEN INSERT ({', '.join(columns)})"
        f" VALUES ({', '.join(f's.{column}' for column in columns)})"
    )


def _latest(columns: list[Column], objects: Objects, window: Window) -> str:
    """The latest row of each key, when every row is whole."""
    selected = ", ".join([*map(_name, columns), "_ETL_OP", *(name for name, _ in TARGET_META)])
    keys = ", ".join(key_of(columns))
    return (
        f"SELECT {selected} FROM {objects.landing_sql} WHERE {window.landed}"
        f" QUALIFY ROW_NUMBER() OVER (PARTITION BY {keys} ORDER BY {_LATEST}) = 1"
    )


def _resolved(columns: list[Column], unchanged: list[Column], objects: Objects, window: Window, survey: Survey) -> str:
    """The latest row of each key that can be made whole, its unchanged columns taken from its chain or from the target."""
    keys = key_of(columns, "w.")
    key_list = ", ".join(key_of(columns))
    lives = f"SUM(IFF(_ETL_OP IN ('I', 'R'), 1, 0)) OVER (PARTITION BY {key_list} ORDER BY {_ORDER} ROWS UNBOUNDED PRECEDING)"
    rows = _rows(columns, objects, window, survey)
    parts = [f"w AS (SELECT l.*, ROW_NUMBER() OVER (ORDER BY {_ORDER}) AS RN, {lives} AS LIFE FROM (\n{rows}\n) l)"]
    root = [f"{key} AS ROOT_{i}" for i, key in enumerate(keys)] + ["w.LIFE AS ROOT_LIFE"]
    joined = "w"
    if survey.moves:
        parts += _chains(columns)
        root = [f"COALESCE(r.P{i}, {key}) AS ROOT_{i}" for i, key in enumerate(keys)]
        root.append("COALESCE(r.PLIFE, w.LIFE) AS ROOT_LIFE")
        same = " AND ".join([f"r.C{i} = {key}" for i, key in enumerate(keys)] + ["r.CLIFE = w.LIFE"])
        joined = f"w LEFT JOIN roots r ON {same}"
    parts.append(f"c AS (SELECT w.*, {', '.join(root)} FROM {joined})")
    chain = ", ".join([*(f"ROOT_{i}" for i in range(len(keys))), "ROOT_LIFE"])
    brought = ", ".join(
        f"MAX(IFF(_ETL_OP = 'D' OR COALESCE({_leaves_out(column, survey)}, FALSE), NULL, RN)) OVER"
        f" (PARTITION BY {chain} ORDER BY RN ROWS UNBOUNDED PRECEDING) AS BROUGHT_{i}"
        for i, column in enumerate(unchanged)
    )
    parts.append(f"v AS (SELECT c.*, {brought} FROM c)")
    before = " AND ".join(f"{key} = v.ROOT_{i}" for i, key in enumerate(key_of(columns, "t0.")))
    joins = "".join(f" LEFT JOIN w b{i} ON b{i}.RN = v.BROUGHT_{i}" for i in range(len(unchanged)))
    joins += f" LEFT JOIN {objects.target_sql} t0 ON v.ROOT_LIFE = 0 AND {before}"
    places = {column.name: i for i, column in enumerate(unchanged)}
    selected = [
        _value(column, places[column.name], survey) if column.name in places else f"v.{_name(column)}"
        for column in columns
    ]
    selected += ["v._ETL_OP", *(f"v.{name}" for name, _ in TARGET_META)]
    whole = " AND ".join(["NOT v.DEAD", *(_can_be_had(column, i, survey) for i, column in enumerate(unchanged))])
    latest = f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {', '.join(key_of(columns, 'v.'))} ORDER BY v.RN DESC) = 1"
    return f"WITH RECURSIVE {', '.join(parts)} SELECT {', '.join(selected)} FROM v{joins} WHERE {whole} {latest}"


def _rows(columns: list[Column], objects: Objects, window: Window, survey: Survey) -> str:
    """The landed rows of the window, and the dead ones up to its end that no row of the target has outlived."""
    taken = ["_ETL_OP", *POSITION, "_ETL_UNCHANGED", "_ETL_OLD_KEY", *_MOMENT, *map(_name, columns)]
    landed = f"SELECT {', '.join(taken)}, FALSE AS DEAD FROM {objects.landing_sql} WHERE {window.landed}"
    if not survey.dead:
        return landed
    values = [
        ("OP", "_ETL_OP"),
        *zip(("COMMIT_LSN", "LSN", "ORDINAL"), POSITION, strict=True),
        ("UNCHANGED", "_ETL_UNCHANGED"),
        (f"IFF({_DEAD_MOVE}, '{{}}', NULL)", "_ETL_OLD_KEY"),
        ("SPECIAL", "_ETL_SPECIAL"),
        ("NULL", "_ETL_COMMIT_TS"),
        *((_dead_key(column) if column.key else "NULL", _name(column)) for column in columns),
    ]
    dead = ", ".join(f"{value} AS {name}" for value, name in values)
    outlived = " AND ".join(
        f"{one} = {other}" for one, other in zip(key_of(columns, "t."), key_of(columns, "x."), strict=True)
    )
    later = "" if survey.truncated_at is None else f" AND {_after(survey.truncated_at, 'x.')}"
    return (
        f"{landed}\nUNION ALL\nSELECT {', '.join(f'x.{name}' for name in taken)}, TRUE FROM"
        f" (SELECT {dead} FROM {objects.dead_letter_sql} WHERE {window.dead(objects)}) x"
        f" LEFT JOIN {objects.target_sql} t ON {outlived} AND t._ETL_COMMIT_LSN > x._ETL_COMMIT_LSN"
        f" WHERE t._ETL_COMMIT_LSN IS NULL{later}"
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


def _chains(columns: list[Column]) -> list[str]:
    """Key changes: each child life with the life it continues, followed to the root."""
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


def _value(column: Column, number: int, survey: Survey) -> str:
    name = _name(column)
    resolved = f"IFF(v.BROUGHT_{number} IS NULL, t0.{name}, b{number}.{name})"
    return f"IFF(COALESCE(v.{_leaves_out(column, survey)}, FALSE), {resolved}, v.{name}) AS {name}"


def _can_be_had(column: Column, number: int, survey: Survey) -> str:
    """True where a row brings the column, or a row before it that is not dead did."""
    there = f"IFF(v.BROUGHT_{number} IS NULL, t0._ETL_COMMIT_LSN IS NOT NULL, NOT b{number}.DEAD)"
    return f"(v._ETL_OP = 'D' OR NOT COALESCE(v.{_leaves_out(column, survey)}, FALSE) OR {there})"


def _leaves_out(column: Column, survey: Survey) -> str:
    return f"_ETL_UNCHANGED IN ({', '.join(literal(text) for text in survey.unchanged[column.name])})"


def key_of(columns: list[Column], row: str = "") -> list[str]:
    """What identifies a row, never NULL. A key can be a value that lives in `_ETL_SPECIAL` (valid until infinity): then its text is part of it."""
    parts = []
    for column in columns:
        if column.key and column.type.kind in NEUTRAL:
            parts.append(f"COALESCE({row}{_name(column)}, {NEUTRAL[column.type.kind]})")
            parts.append(f"COALESCE(GET(PARSE_JSON({row}_ETL_SPECIAL), {literal(column.name)})::VARCHAR, '')")
        elif column.key:
            parts.append(row + _name(column))
    return parts


def _name(column: Column) -> str:
    return quoted(names.column(column.name))


def _after(position: tuple[int, int, int], row: str = "") -> str:
    commit, lsn, index = position
    return (
        f"({row}_ETL_COMMIT_LSN > {commit} OR ({row}_ETL_COMMIT_LSN = {commit} AND ({row}_ETL_LSN > {lsn}"
        f" OR ({row}_ETL_LSN = {lsn} AND {row}_ETL_INDEX > {index}))))"
    )
