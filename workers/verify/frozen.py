"""The target of one table as of an LSN, beside the running pipeline and without disturbing it.

    1  freeze     read the watermark W, clone the target into a temporary table, read the watermark again: the same, so the clone is the target at W
    2  (caller)   the source's snapshot at S. It is taken later, and a watermark is a place of WAL that was written: so W <= S
    3  (caller)   wait until every row before S is durable in the change log
    4  catch_up   apply the window [W, S) to the clone, by the same statements as an apply: the clone is the target as of S, exactly

The clone costs nothing (Snowflake copies no row) and belongs to the session: whatever dies, it is gone with it, and two verifications do not
meet. The pipeline goes on: nobody waits for us, and its applies pass S while we compare.

Two other ways were weighed. To hold the table's applies at S would delay its readers for as long as the comparison takes. To compare the target at a
later W with the source at S, and explain differences by the rows between, can say nothing of keys that changed in between: in a busy table those
that change most would never be verified.

Rows that have been applied may leave the change log (`purge`). Where the pipeline has passed W, and a row of the window may have been landed
longer ago than rows are kept, there is no saying: begin again.

What is claimed: the target at W and the change log from W to S give the source at S. A fault in a row that is written in this window is healed by
it, in the clone as in the target. A policy without a target (append, dynamic table) is verified by its change log: an empty table instead of the
clone, and the window begins with the table's copy.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.table import Table, TableName
from workers.snowflake import apply as applying
from workers.snowflake import moving
from workers.snowflake.connection import DOES_NOT_EXIST, NO_SUCH_COLUMN, classify
from workers.snowflake.identifiers import Objects, literal, objects_of
from workers.snowflake.script import transaction
from workers.snowflake.sftypes import KEYLESS_META

PREFIX = "_ETL_VERIFY_"  # then the process and the change log
TRIES_MAX = 10  # a clone takes a second; applies come at most every few


class MovedError(Exception):
    """The table became another one meanwhile (its shape, its generation): begin again."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A table's watermark row."""

    generation: int
    applied: int
    fence: int
    shown: int
    purged: int
    shape: str
    policy: str

    @property
    def whole_until(self) -> int:
        """Below this commit_lsn every row is in the change log, or applied."""
        return max(self.applied, self.fence)


class Frozen:
    """The clone of one table's target. The session is the caller's; `copied_from` is the lowest commit_lsn of a row of the table's copy."""

    def __init__(self, connection: Any, pipeline: Pipeline, name: TableName, copied_from: int) -> None:
        self._copied_from = copied_from
        self.connection, self._pipeline = connection, pipeline
        self.place = f"pipeline {pipeline.name}, table {name}"
        self.objects = objects_of(pipeline.destination, Table(name, 0, ()))
        self._began = time.monotonic()
        self._mark = self._freeze()
        self.table: Table = wire.load(Table, self._mark.shape)
        self.policy: ApplyPolicy = wire.load(ApplyPolicy, self._mark.policy)
        self._waiting_seconds = self._oldest_seconds()

    @property
    def table_sql(self) -> str:
        """The clone."""
        return self.temporary.target_sql

    def is_whole(self, through: int) -> bool:
        """True when the table's own watermark tells that its change log is whole up to `through`."""
        with self.connection.cursor() as cursor:
            mark = self._read(cursor)
        return mark.generation == self._mark.generation and mark.whole_until >= through

    def catch_up(self, through: int) -> int:
        """Apply what the change log has from the watermark up to `through`; how many rows are in the dead letter. MovedError: begin again."""
        opening, start = self.opening, self._start
        try:
            with self.connection.cursor() as cursor:
                self.stays(cursor)
                if through > start:
                    found = applying.look(cursor, opening, start, through)
                    dead = applying.dead_before(self.objects, opening.generation, through)
                    rows = applying.window_of(opening.generation, start, through)
                    window = replace(
                        applying.surveyed(opening.table, self.objects, rows, dead, found), target_sql=self.table_sql
                    )
                    if found.rows:
                        cursor.execute(transaction(moving.moved(opening, self.temporary, window), "caught up"))
                self.stays(cursor)
                return self._dead(cursor, through)
        except ProgrammingError as error:
            if error.errno in (*NO_SUCH_COLUMN, DOES_NOT_EXIST):  # it is being altered
                raise MovedError from None
            raise classify(error, self.place, Kind.APPLY) from None
        except Error as error:
            raise classify(error, self.place, Kind.APPLY) from None

    @property
    def temporary(self) -> Objects:
        """The table's objects, with the clone as its target."""
        name = f"{PREFIX}{os.getpid()}_{self.objects.landing}"
        return replace(self.objects, target=name, schema=self.objects.landing_schema)

    @property
    def opening(self) -> OpenTable:
        """The table as an apply of the clone sees it; a history is not its business."""
        return OpenTable(
            handle=0,
            pipeline_id=self._pipeline.id,
            pipeline=self._pipeline.name,
            owner="",
            epoch=0,
            generation=self._mark.generation,
            channel="",
            destination=self._pipeline.destination,
            table=self.table,
            since="",
            policy=replace(self.policy, history=False),
        )

    def stays(self, cursor: Any) -> Mark:
        """The watermark row as it is now. MovedError unless the clone has the table's shape and generation still, and no row of the window can have
        left the change log."""
        mark = self._read(cursor)
        if (mark.generation, mark.shape, mark.policy) != (self._mark.generation, self._mark.shape, self._mark.policy):
            raise MovedError
        kept = self.policy.retention_hours
        seconds = self._waiting_seconds + time.monotonic() - self._began
        if kept is not None and mark.applied != self._mark.applied and seconds >= kept * 3600:
            raise MovedError
        return mark

    def close(self) -> None:
        """Drop the clone."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {self.table_sql}")

    # -- inside

    @property
    def _start(self) -> int:
        """Where the window begins."""
        return self._mark.applied if self.policy.mode.has_target else self._copied_from

    def _freeze(self) -> Mark:
        try:
            with self.connection.cursor() as cursor:
                for _ in range(TRIES_MAX):
                    mark = self._read(cursor)
                    self._check(mark)
                    cursor.execute(f"DROP TABLE IF EXISTS {self.table_sql}")  # of the try before
                    for statement in self._cloning(mark):
                        cursor.execute(statement)
                    if self._read(cursor) == mark:
                        return mark
        except ProgrammingError as error:
            if error.errno == DOES_NOT_EXIST:
                raise self._not_there() from None
            raise classify(error, self.place, Kind.DESTINATION_SETUP) from None
        except Error as error:
            raise classify(error, self.place, Kind.DESTINATION_SETUP) from None
        reason = f"its target is moved faster than it can be cloned ({TRIES_MAX} tries)"
        raise EtlError(Kind.APPLY, self.place, reason, "let applies be further apart (apply_interval_seconds)")

    def _check(self, mark: Mark) -> None:
        """Can it be verified? Only what shows one whole generation."""
        if not mark.shape or not mark.policy:
            raise self._not_there()
        policy = wire.load(ApplyPolicy, mark.policy)
        if policy.mode.has_target and (mark.shown != mark.generation or not mark.applied):
            raise self._not_there()
        if not policy.mode.has_target and mark.purged == mark.generation:
            reason = f"its target is not ours (apply {policy.mode}), and rows have left its change log"
            raise EtlError(Kind.APPLY, self.place, reason, "have it copied again (`resync`), or keep the change log")

    def _not_there(self) -> EtlError:
        return EtlError(
            Kind.APPLY, self.place, "its target has not been built yet", "wait until it is READY (`status`)"
        )

    def _cloning(self, mark: Mark) -> list[str]:
        """The clone; where there is no target, an empty table that has the change log's columns, and so all that a target has."""
        table, policy = wire.load(Table, mark.shape), wire.load(ApplyPolicy, mark.policy)
        create = f"CREATE TEMPORARY TABLE {self.table_sql} CLONE"
        if policy.mode.has_target:
            return [f"{create} {self.objects.target_sql}"]
        more = [] if table.key else [f"ALTER TABLE {self.table_sql} ADD COLUMN {n} {kind}" for n, kind in KEYLESS_META]
        return [f"{create} {self.objects.landing_sql}", f"DELETE FROM {self.table_sql}", *more]

    def _read(self, cursor: Any) -> Mark:
        row = cursor.execute(
            f"SELECT GENERATION, APPLIED, FENCE, SHOWN, PURGED, SHAPE, POLICY FROM {self.objects.watermark_sql}"
            f" WHERE LANDING_TABLE = {literal(self.objects.landing)} AND PIPELINE_ID = {self._pipeline.id}"
        ).fetchone()
        if row is None:
            raise self._not_there()
        generation, applied, fence, shown, purged = (int(value) for value in row[:5])
        return Mark(generation, applied, fence, shown, purged, row[5], row[6])

    def _oldest_seconds(self) -> float:
        """For how long the oldest row that the clone does not have has been in the change log, if rows ever leave it."""
        if self.policy.retention_hours is None:
            return 0.0
        with self.connection.cursor() as cursor:
            (found,) = cursor.execute(
                f"SELECT DATEDIFF(SECOND, MIN(_ETL_LOADED_AT), CURRENT_TIMESTAMP()) FROM {self.objects.landing_sql}"
                f" WHERE _ETL_GENERATION = {self._mark.generation} AND _ETL_COMMIT_LSN >= {self._mark.applied}"
            ).fetchone()
        return float(found or 0)

    def _dead(self, cursor: Any, through: int) -> int:
        try:
            dead = applying.dead_before(self.objects, self._mark.generation, through)
            (count,) = cursor.execute(f"SELECT COUNT(*) FROM {dead}").fetchone()
        except ProgrammingError as error:
            if error.errno == DOES_NOT_EXIST:
                return 0
            raise
        return int(count)
