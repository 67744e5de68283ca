"""Puts a target right by ranges of its key: the rows of the ranges that differ are copied once more, as the source's snapshot at S shows them.

    read     the ranges under the snapshot, by a copy's own path (`lane`, masks, Parquet) ─► stage ─► a temporary change log: `R` at S-1
    block    BEGIN; look at the watermark A; rows of the target that the snapshot has not become a `D`; keys that have changed since are left out;
             MERGE, as an apply does it; COMMIT

What makes it exact while the pipeline goes on: of a key that no row of the change log from min(A, S) on names, the target at A has to show what the
source showed at S. No apply comes between, for it would move the watermark, whose row the block holds. What lands later, or has landed and was not
applied yet, comes on top. Keys that have changed since S, their old ones included, stay as they are: the next look at the table finds what is wrong
with them still. (A truncate has to wait for the snapshot's lock.)

Not by ranges, but by another copy of the table: where more differs than a small part; without an integer key (there are no ranges); where the target
is more than the latest rows (a history) or is made by others (a task, append, a dynamic table); where rows are in the dead letter, whose replay
derives target rows from the change log, which may be what is wrong. A block is all or nothing; what is left of a process that dies before it are
files on the stage, which the next repair of the table removes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from snowflake.connector.errors import Error

from etl_supervisor.errors import Kind
from etl_supervisor.model.apply_policy import ApplyMode
from workers.reader.csv import placed
from workers.reader.lane import read
from workers.reader.masks import Masks
from workers.reader.ranges import Range
from workers.reader.snapshot import Found
from workers.snowflake import moving, parquet
from workers.snowflake.connection import classify
from workers.snowflake.identifiers import literal
from workers.snowflake.script import MOVED, swapped, transaction
from workers.snowflake.stage import Stage
from workers.snowflake.window import Window, name_of, same_key
from workers.verify.comparing import Difference
from workers.verify.frozen import Frozen, Mark, MovedError
from workers.verify.ranges import Span, condition
from workers.verify.sides import Pair

PART_MAX = 10  # a tenth of the table's rows: beyond that another copy costs little more, and replaces it in one step
ROWS_MIN = 1000  # so many are put right whatever part of the table they are
FILE_BYTES = 64 << 20  # of rows in memory, which are one file
CHANNEL = "repair"  # where the files lie, in the table's folder


def may_mend(clone: Frozen, found: Difference, dead: int) -> bool:
    """Whether ranges will do."""
    plain = clone.policy.mode in (ApplyMode.MERGE, ApplyMode.VIEW) and not clone.policy.history
    odd = found.missing.count + found.extra.count + found.different.count
    few = odd <= max(ROWS_MIN, found.source_rows // PART_MAX)
    return plain and found.whole and bool(found.spans) and not dead and few


@dataclass(frozen=True, slots=True)
class Repair:
    """Of the table of a clone: `found` is it under the source's snapshot at `point`, whose columns are the clone's; `by` is the column of ranges."""

    clone: Frozen
    found: Found
    masks: Masks
    point: int
    by: Pair

    def mend(self, source: psycopg.Connection[Any], spans: Sequence[Span]) -> int:
        """How many rows were written or removed. MovedError: the table has become another one, nothing was done; EtlError why it can't be."""
        stage = Stage(replace(self.clone.opening, channel=CHANNEL))
        try:
            with self.clone.connection.cursor() as cursor:
                cursor.execute(f"CREATE TEMPORARY TABLE {self._rows_sql} CLONE {self.clone.objects.landing_sql}")
                try:
                    cursor.execute(f"DELETE FROM {self._rows_sql}")
                    self._load(cursor, stage, source, spans)
                    mark = self.clone.stays(cursor)
                    (outcome,) = cursor.execute(transaction(self._steps(mark, spans), "repaired")).fetchone()
                    if outcome == MOVED:
                        raise MovedError
                    (rows,) = cursor.execute(f"SELECT COUNT(*) FROM {self._rows_sql}").fetchone()
                    return int(rows)
                finally:
                    cursor.execute(f"DROP TABLE IF EXISTS {self._rows_sql}")
                    stage.clear(cursor)
        except Error as error:
            raise classify(error, self.clone.place, Kind.APPLY) from None

    # -- inside

    @property
    def _rows_sql(self) -> str:
        """The temporary change log."""
        clone = self.clone.temporary
        return replace(clone, target=f"{clone.target}_ROWS").target_sql

    def _load(self, cursor: Any, stage: Stage, source: psycopg.Connection[Any], spans: Sequence[Span]) -> None:
        stage.create(cursor)
        stage.clear(cursor)
        names = []
        with tempfile.TemporaryDirectory() as folder:
            for number, batches in enumerate(_gathered(self._batches(source, spans))):
                path = Path(folder) / f"{self.point:016X}-{number}.parquet"
                parquet.write(path, batches)
                stage.put(cursor, path)
                path.unlink()
                names.append(path.name)
        if names:
            cursor.execute(stage.copy_into(self._rows_sql, names))

    def _batches(self, source: psycopg.Connection[Any], spans: Sequence[Span]) -> Iterator[pa.RecordBatch]:
        """The rows of the ranges, as files have them."""
        within = sql.SQL(condition(spans)).format(sql.Identifier(self.by.source.name)).as_string(source)
        asked = f"({self.found.condition}) AND ({within})" if self.found.condition else within
        found, shape, opening = replace(self.found, condition=asked), self.found.table, self.clone.opening
        loaded_at, number = datetime.now(UTC).isoformat(sep=" ", timespec="microseconds"), 0
        with source.transaction():
            for leaf in found.leaves:
                for rows in read(source, found, Range(leaf)):
                    number += 1
                    batch = self.masks.batch(shape, placed(shape, rows, self.point - 1, number))
                    yield parquet.form(batch, opening.table, opening.generation, loaded_at)

    def _steps(self, mark: Mark, spans: Sequence[Span]) -> list[str]:
        """The block. Its rows stand at S-1 in any order: a key has one."""
        objects, opening = self.clone.objects, self.clone.opening
        table, rows, generation = opening.table, self._rows_sql, opening.generation
        since = f"_ETL_GENERATION = {generation} AND _ETL_COMMIT_LSN >= {min(mark.applied, self.point)}"
        held = (
            f"UPDATE {objects.watermark_sql} SET UPDATED_AT = CURRENT_TIMESTAMP() WHERE LANDING_TABLE = {literal(objects.landing)}"
            f" AND PIPELINE_ID = {opening.pipeline_id} AND GENERATION = {generation} AND APPLIED = {mark.applied}"
            f" AND SHAPE = {literal(mark.shape)}"
        )
        keys = [name_of(column) for column in table.columns if column.key]
        alive = " AND NOT COALESCE(t._ETL_DELETED, FALSE)" if opening.policy.soft else ""
        gone = (
            f"INSERT INTO {rows} (_ETL_OP, _ETL_GENERATION, _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX, _ETL_SPECIAL, {', '.join(keys)})"
            f" SELECT 'D', {generation}, {self.point - 1}, 0, 0, t._ETL_SPECIAL, {', '.join(f't.{key}' for key in keys)}"
            f" FROM {objects.target_sql} t LEFT JOIN {rows} l ON {same_key(table.columns, 'l.', 't.')}"
            f" WHERE ({condition(spans).format(f't.{name_of(self.by.target)}')}){alive} AND l._ETL_OP IS NULL"
        )
        touched = (
            f"DELETE FROM {rows} l USING (SELECT * FROM {objects.landing_sql} WHERE {since}) x"
            f" WHERE {same_key(table.columns, 'l.', 'x.')}"
        )
        window = Window(table.columns, f"{rows} l WHERE TRUE", objects.target_sql, truncates=False)
        return [*swapped(held), gone, touched, *moving.moved(opening, objects, window)]


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Some at a time, as many as one file takes."""
    found: list[pa.RecordBatch] = []
    for batch in batches:
        found.append(batch)
        if sum(one.nbytes for one in found) >= FILE_BYTES:
            yield found
            found = []
    if found:
        yield found
