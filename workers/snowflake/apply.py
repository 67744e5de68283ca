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

`_ETL_SPECIAL` is always the latest row's: special values are all small, and only large values are left out by TOAST. A special value in a key is
NULL in its column; its text takes part in telling rows apart (`_key`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from snowflake.connector.errors import Error

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.table import Column, Table
from workers.snowflake.connection import classify
from workers.snowflake.ddl import Watermark
from workers.snowflake.identifiers import Objects, literal, objects_of, quoted
from workers.snowflake.sftypes import NEUTRAL, TARGET_META

POSITION = ("_ETL_COMMIT_LSN", "_ETL_LSN", "_ETL_INDEX")
_ORDER = ", ".join(POSITION)
_LATEST = ", ".join(f"{name} DESC" for name in POSITION)
MOVED = "fence moved"


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a window. `truncated_at` is the position of its last truncate; `unchanged` maps a column to the texts that name it."""

    rows: int
    truncated_at: tuple[int, int, int] | None
    moves: bool
    unchanged: dict[str, tuple[str, ...]]


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
            found = survey(cursor, objects, window_of(opening.generation, watermark.applied, fence))
            text = block(opening, objects, watermark, fence, found)
            (outcome,) = cursor.execute(text).fetchone()
            if outcome == MOVED:
                return _read(cursor, objects, place)
    except Error as error:
        raise classify(error, place, Kind.APPLY) from None
    return Watermark(opening.generation, fence, opening.epoch)


def survey(cursor: Any, objects: Objects, window: str) -> Survey:
    """Look at a window."""
    rows, truncates, moves, unchanged = cursor.execute(
        "SELECT COUNT(*), COUNT_IF(_ETL_OP = 'T'), COUNT(_ETL_OLD_KEY), COUNT(_ETL_UNCHANGED)"
        f" FROM {objects.landing_sql} WHERE {window}"
    ).fetchone()
    at = None
    if truncates:
        row = cursor.execute(
            f"SELECT {_ORDER} FROM {objects.landing_sql} WHERE {window} AND _ETL_OP = 'T' ORDER BY {_LATEST} LIMIT 1"
        ).fetchone()
        at = (int(row[0]), int(row[1]), int(row[2]))
    texts: list[str] = []
    if unchanged:
        found = cursor.execute(
            f"SELECT DISTINCT _ETL_UNCHANGED FROM {objects.landing_sql} WHERE {window} AND _ETL_UNCHANGED IS NOT NULL"
        ).fetchall()
        texts = sorted(row[0] for row in found)
    return Survey(int(rows), at, bool(moves), _by_column(texts))


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
        steps.append(merge(opening.table, objects, window_of(opening.generation, watermark.applied, fence), survey))
    return transaction(steps, "applied")


def transaction(steps: list[str], outcome: str) -> str:
    """Steps as one server-side block that returns `outcome`; what fails rolls back and raises."""
    body = ";\n  ".join(["BEGIN TRANSACTION", *steps, "COMMIT", f"RETURN '{outcome}'"])
    text = f"BEGIN\n  {body};\nEXCEPTION\n  WHEN OTHER THEN\n    ROLLBACK;\n    RAISE;\nEND;"
    return f"EXECUTE IMMEDIATE {literal(text)}" if "$$" in text else f"EXECUTE IMMEDIATE $$\n{text}\n$$"


def merge(table: Table, objects: Objects, window: str, survey: Survey) -> str:
    """The MERGE of a window into the target."""
    if survey.truncated_at is not None:
        window += f" AND {_after(survey.truncated_at)} AND _ETL_OP <> 'T'"
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


def _latest(columns: list[Column], objects: Objects, window: str) -> str:
    """The latest row of each key, when every row is whole."""
    selected = ", ".join([*map(_name, columns), "_ETL_OP", *(name for name, _ in TARGET_META)])
    keys = ", ".join(key_of(columns))
    return (
        f"SELECT {selected} FROM {objects.landing_sql} WHERE {window}"
        f" QUALIFY ROW_NUMBER() OVER (PARTITION BY {keys} ORDER BY {_LATEST}) = 1"
    )


def _resolved(columns: list[Column], unchanged: list[Column], objects: Objects, window: str, survey: Survey) -> str:
    """The latest row of each key, its unchanged columns taken from its chain or from the target."""
    keys = key_of(columns, "w.")
    key_list = ", ".join(key_of(columns))
    lives = f"SUM(IFF(_ETL_OP IN ('I', 'R'), 1, 0)) OVER (PARTITION BY {key_list} ORDER BY {_ORDER} ROWS UNBOUNDED PRECEDING)"
    parts = [
        f"w AS (SELECT l.*, ROW_NUMBER() OVER (ORDER BY {_ORDER}) AS RN, {lives} AS LIFE"
        f" FROM {objects.landing_sql} l WHERE {window})"
    ]
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
    parts.append(f"f AS (SELECT * FROM v QUALIFY ROW_NUMBER() OVER (PARTITION BY {key_list} ORDER BY RN DESC) = 1)")
    places = {column.name: i for i, column in enumerate(unchanged)}
    selected = [
        _value(column, places[column.name], survey) if column.name in places else f"f.{_name(column)}"
        for column in columns
    ]
    selected += ["f._ETL_OP", *(f"f.{name}" for name, _ in TARGET_META)]
    joins = "".join(f" LEFT JOIN w b{i} ON b{i}.RN = f.BROUGHT_{i}" for i in range(len(unchanged)))
    before = " AND ".join(f"{key} = f.ROOT_{i}" for i, key in enumerate(key_of(columns, "t0.")))
    return (
        f"WITH RECURSIVE {', '.join(parts)} SELECT {', '.join(selected)} FROM f{joins}"
        f" LEFT JOIN {objects.target_sql} t0 ON f.ROOT_LIFE = 0 AND {before}"
    )


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
    resolved = f"IFF(f.BROUGHT_{number} IS NULL, t0.{name}, b{number}.{name})"
    return f"IFF(COALESCE(f.{_leaves_out(column, survey)}, FALSE), {resolved}, f.{name}) AS {name}"


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


def window_of(generation: int, applied: int, fence: int) -> str:
    """The rows of a generation with applied <= commit_lsn < fence."""
    return f"_ETL_GENERATION = {generation} AND _ETL_COMMIT_LSN >= {applied} AND _ETL_COMMIT_LSN < {fence}"


def _after(position: tuple[int, int, int]) -> str:
    commit, lsn, index = position
    return (
        f"(_ETL_COMMIT_LSN > {commit} OR (_ETL_COMMIT_LSN = {commit} AND (_ETL_LSN > {lsn}"
        f" OR (_ETL_LSN = {lsn} AND _ETL_INDEX > {index}))))"
    )
