"""Brings a target up to a fence: one server-side block, so that a dead actor can leave nothing half done.

    window    landing rows of this generation with applied <= commit_lsn < fence; all durable, so it never changes
    survey    one read: are there rows, truncates, key changes, unchanged TOAST columns? It only chooses which SQL is written
    block     BEGIN; compare-and-set of the watermark (owner, generation, applied, epoch); [history]; [DELETE]; MERGE; COMMIT

The compare-and-set comes first in the transaction. A block that comes twice, or that a dead actor left running, finds the watermark moved and does
nothing; two blocks at once wait for each other at the watermark's row. That makes a guard on positions inside the MERGE unnecessary.

The first apply of a generation replaces the target (rows deleted in a gap disappear, or are marked). It begins at the copy: rows of the stream
from before it are in it. A truncate in the window empties the target, and only rows after the last one count. A table without rows costs the
compare-and-set alone, on the condition that there are none.

What is written into the target is the policy's business (`moving`): `target` (of each key the latest row decides), `keyless` (a difference of
multisets), `history` beside it. A policy without a target moves the watermark only: it tells from where on the change log is whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyMode
from etl_supervisor.model.table import Table
from etl_supervisor.monitor import metrics
from workers.snowflake import moving, task
from workers.snowflake.connection import DOES_NOT_EXIST, classify
from workers.snowflake.identifiers import Objects, literal, objects_of
from workers.snowflake.owner import Watermark
from workers.snowflake.script import MOVED, swapped, transaction
from workers.snowflake.window import DEAD_MOVE, Window, dead_rows


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a window. `unchanged` maps a column to the texts that name it; `partial`: updates that do not tell which row they replace;
    `dead`: rows of the dead letter may matter."""

    rows: int
    truncates: int
    moves: bool
    partial: bool
    unchanged: dict[str, tuple[str, ...]]
    dead: bool = False


def apply(connection: Any, opening: OpenTable, watermark: Watermark, fence: int, copied: int = 0) -> Watermark:
    """Apply the window up to `fence`; the watermark afterwards. EtlError(APPLY) when the block failed: then nothing was changed.

    `copied` is the lowest commit_lsn of the rows of the copy (a copy that was killed has rows of several snapshots): the first window begins there.
    """
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    if fence <= watermark.applied:
        return watermark
    objects = objects_of(opening.destination, opening.table)
    mode = opening.policy.mode
    start = watermark.applied or copied
    try:
        with connection.cursor() as cursor:
            if may_be_empty(opening, watermark) and _stays_empty(cursor, opening, objects, watermark, fence, start):
                return Watermark(opening.generation, fence, opening.epoch, opening.generation)
            looks = mode.has_target and (mode is not ApplyMode.TASK or not opening.table.key)
            found = look(cursor, opening, start, fence) if looks else NOTHING
            if mode is ApplyMode.TASK:
                cursor.execute(task.reached(opening, objects, fence, start))
                return replace(watermark, applied=fence, epoch=opening.epoch)
            text = block(opening, objects, watermark, fence, start, found)
            (outcome,) = cursor.execute(text).fetchone()
            if outcome == MOVED:
                return _read(cursor, objects, place)
            labels = (opening.pipeline, metrics.table_label(opening.table.name))
            metrics.APPLIED_ROWS.labels(*labels).inc(found.rows)
    except Error as error:
        raise classify(error, place, Kind.APPLY) from None
    return Watermark(opening.generation, fence, opening.epoch, opening.generation)


def may_be_empty(opening: OpenTable, watermark: Watermark) -> bool:
    """Whether it is worth asking: nothing was ever applied, and there is nothing beside the target that the first window has to begin."""
    simple = opening.policy.mode in (ApplyMode.MERGE, ApplyMode.VIEW) and not opening.policy.history
    return simple and watermark.applied == watermark.shown == 0


def _stays_empty(
    cursor: Any, opening: OpenTable, objects: Objects, watermark: Watermark, fence: int, start: int
) -> bool:
    """The first window of a table without rows, in one statement; False when there are rows, or the watermark has moved: nothing was done then."""
    window = window_of(opening.generation, start, fence)
    (moved,) = cursor.execute(
        f"{_moved(opening, objects, watermark, fence, start)}"
        f" AND (SELECT COUNT(*) FROM {objects.landing_sql} WHERE {window}) = 0"
        f" AND (SELECT COUNT(*) FROM {objects.target_sql}) = 0"
    ).fetchone()[:1]
    return int(moved) == 1


NOTHING = Survey(0, 0, moves=False, partial=False, unchanged={})


def look(cursor: Any, opening: OpenTable, start: int, fence: int) -> Survey:
    """What is in the window of a table that has a target; EtlError(SCHEMA) when that can't be moved by it."""
    objects = objects_of(opening.destination, opening.table)
    dead = dead_before(objects, opening.generation, fence)
    found = survey(cursor, objects, window_of(opening.generation, start, fence), dead)
    if found.partial and not opening.table.key:
        place = f"pipeline {opening.pipeline}, table {opening.table.name}"
        remedy = "ALTER TABLE … REPLICA IDENTITY FULL in the source, or set apply to append for this table"
        raise EtlError(Kind.SCHEMA, place, "an update does not bring the row that it replaces", remedy)
    return found


def survey(cursor: Any, objects: Objects, window: str, dead: str) -> Survey:
    """Look at a window, and at the `dead` rows that may stand in its chains."""
    rows, truncates, moves, unchanged, updates = cursor.execute(
        "SELECT COUNT(*), COUNT_IF(_ETL_OP = 'T'), COUNT(_ETL_OLD_KEY), COUNT(_ETL_UNCHANGED), COUNT_IF(_ETL_OP = 'U')"
        f" FROM {objects.landing_sql} WHERE {window}"
    ).fetchone()
    known = (int(rows), int(truncates or 0))
    if not unchanged:
        return Survey(*known, bool(moves), bool(updates), {})
    found = cursor.execute(
        f"SELECT DISTINCT _ETL_UNCHANGED FROM {objects.landing_sql} WHERE {window} AND _ETL_UNCHANGED IS NOT NULL"
    ).fetchall()
    ones = _dead_ones(cursor, dead)
    texts = sorted({row[0] for row in found} | {text for text, _ in ones if text is not None})
    moved = bool(moves) or any(moved for _, moved in ones)
    return Survey(*known, moved, bool(updates), _by_column(texts), bool(ones))


def _dead_ones(cursor: Any, dead: str) -> list[tuple[str | None, bool]]:
    """Of the dead rows: what they left out, and whether one is the insert of a key change. Without a dead letter there are none."""
    try:
        rows = cursor.execute(f"SELECT DISTINCT UNCHANGED, {DEAD_MOVE} FROM {dead}").fetchall()
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
        f"SELECT GENERATION, APPLIED, EPOCH, SHOWN FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    ).fetchone()
    if row is None:
        raise EtlError(Kind.APPLY, place, "the watermark row is gone", "restart the pipeline: it is made again")
    return Watermark(*(int(value) for value in row))


# -- the statements


def surveyed(table: Table, objects: Objects, rows: str, dead: str, found: Survey) -> Window:
    """A window whose rows are known."""
    unchanged = {
        column.name: f"_ETL_UNCHANGED IN ({', '.join(literal(text) for text in found.unchanged[column.name])})"
        for column in table.columns
        if table.key and column.name in found.unchanged
    }
    source = f"{objects.landing_sql} l WHERE {rows}"
    truncates = bool(found.truncates)
    return Window(
        table.columns, source, objects.target_sql, unchanged, found.moves, truncates, dead if found.dead else None
    )


def block(opening: OpenTable, objects: Objects, watermark: Watermark, fence: int, start: int, found: Survey) -> str:
    """The whole apply as one statement."""
    policy = opening.policy
    steps = swapped(_moved(opening, objects, watermark, fence, start))
    if policy.mode.has_target:
        steps += moves(opening, start, fence, found, first=watermark.applied == 0)
    return transaction(steps, "applied")


def _moved(opening: OpenTable, objects: Objects, watermark: Watermark, fence: int, start: int) -> str:
    """The compare-and-set of the watermark."""
    policy = opening.policy
    return (
        f"UPDATE {objects.watermark_sql} SET APPLIED = {fence}, EPOCH = {opening.epoch}, UPDATED_AT = CURRENT_TIMESTAMP(),"
        f" SHOWN = {opening.generation}, BASE = IFF(APPLIED = 0, {start}, BASE)"
        f"{f', HISTORY = {fence}' if policy.history else ''}"
        f" WHERE LANDING_TABLE = {literal(objects.landing)} AND OWNER = {literal(opening.owner)}"
        f" AND GENERATION = {opening.generation} AND APPLIED = {watermark.applied} AND EPOCH <= {opening.epoch}"
    )


def moves(opening: OpenTable, start: int, fence: int, found: Survey, *, first: bool) -> list[str]:
    """What the window from `start` does to the tables of the policy; `first` of its generation it replaces what was there."""
    objects = objects_of(opening.destination, opening.table)
    rows, dead = window_of(opening.generation, start, fence), dead_before(objects, opening.generation, fence)
    window = surveyed(opening.table, objects, rows, dead, found)
    steps = moving.first(opening, objects, str(start)) if first else []
    return steps + (moving.moved(opening, objects, window) if found.rows else [])


def dead_before(objects: Objects, generation: int, fence: int) -> str:
    """The dead rows that may stand in a chain of a window, as what follows FROM."""
    return f"{dead_rows(objects, str(generation))} AND COMMIT_LSN < {fence}"


def window_of(generation: int, applied: int, fence: int) -> str:
    """The rows of a generation with applied <= commit_lsn < fence."""
    return f"_ETL_GENERATION = {generation} AND _ETL_COMMIT_LSN >= {applied} AND _ETL_COMMIT_LSN < {fence}"
