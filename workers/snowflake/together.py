"""All tables of a pipeline brought up to one fence in one transaction (`consistency: transaction`).

    look      one read of `_ETL_WATERMARK`: applied, shape and policy of each table; a survey of each that may have rows
    block     BEGIN; one compare-and-set of all watermarks and the pipeline's own row; each table's statements; the commit time; COMMIT

The fence is a transaction's end below which everything of every table is durable, so the tables show the source as it was there. The pipeline's row
(`SOURCE_TABLE` is empty) says so to whoever reads the warehouse: APPLIED is the fence, COMMITTED_AT the commit time of the newest
transaction below it.

The tables' home actors only load. They need no lock against this one: the compare-and-set finds a watermark that another block has moved, an older
reader's epoch, a generation that has begun, and a shape that is being altered (`OFFERED` is empty or another then). In each case the
block has done nothing, and is written anew. A block that comes twice finds all tables at its fence.

A table whose generation has not been applied yet is replaced in the same transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from snowflake.connector.errors import Error

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import AppliedTogether, ApplyTogether, OpenTable, Part, ToPublisher
from etl_supervisor.model import names
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.table import Table
from etl_supervisor.monitor import metrics
from workers.snowflake import apply as applying
from workers.snowflake.connection import classify
from workers.snowflake.identifiers import literal, quoted
from workers.snowflake.jobs import Jobs, Lane
from workers.snowflake.script import MOVED, nested, swapped, transaction
from workers.snowflake.sessions import Sessions
from workers.snowflake.tagging import Tag

BLOCK_BYTES_MAX = 900_000  # Snowflake takes statements of 1 MB: some hundred tables that have rows in one window

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mark:
    """What `_ETL_WATERMARK` says of a table, or of the pipeline."""

    generation: int
    applied: int
    owner: str
    offered: str
    shape: str
    policy: str


@dataclass(frozen=True, slots=True)
class Move:
    """One table in the block: as it would be opened, and the window that begins at `start`."""

    opening: OpenTable
    mark: Mark
    start: int
    found: applying.Survey

    @property
    def landing(self) -> str:
        """Its row in `_ETL_WATERMARK`."""
        return self.opening.destination.naming.landing_table(self.opening.table.name)


class Together:
    """Joint applies of all publishers of one actor."""

    def __init__(self, jobs: Jobs, sessions: Sessions) -> None:
        self._jobs, self._sessions = jobs, sessions

    def take(self, message: ApplyTogether, send: Callable[[ToPublisher], None]) -> None:
        """Begin; the answer goes by `send`, from the loop's own thread."""
        began_ns = time.time_ns()

        def told(future: Future[Any]) -> None:
            send(_answer(message, began_ns, future.exception()))

        self._jobs.start(message.destination.id, Lane.APPLY, partial(self._job, message), told)

    def _job(self, message: ApplyTogether) -> None:
        failpoint("actor.before_apply")
        started = time.monotonic()
        tag = Tag(message.pipeline, "", "apply")
        self._sessions.run(message.destination, tag, lambda connection: apply(connection, message))
        metrics.APPLY_SECONDS.labels(message.pipeline).observe(time.monotonic() - started)
        failpoint("actor.after_apply")


def _answer(message: ApplyTogether, began_ns: int, error: BaseException | None) -> AppliedTogether:
    """The outcome; never the text of an error that nobody named: it may hold a value."""
    if error is None:
        return AppliedTogether(message.pipeline_id, message.fence, began_ns)
    if not isinstance(error, EtlError):
        log.error("job_crashed", operation="apply", error=type(error).__name__)
        reason = f"apply failed: {type(error).__name__}"
        error = EtlError(Kind.INTERNAL, _place(message), reason, "see the actor's log", transient=True)
    trouble = (error.kind, error.place, error.reason, error.remedy)
    return AppliedTogether(message.pipeline_id, message.fence, began_ns, *trouble)


def apply(connection: Any, message: ApplyTogether) -> None:
    """Bring the tables to the fence; EtlError when they could not be: then none was moved."""
    try:
        with connection.cursor() as cursor:
            pipeline, marks = _read(cursor, message)
            if pipeline.applied == message.fence and all(mark.applied == message.fence for mark in marks):
                return
            moves = [_move(cursor, message, part, mark) for part, mark in zip(message.parts, marks, strict=True)]
            text = block(message, pipeline, moves)
            if len(text.encode()) > BLOCK_BYTES_MAX:
                rows = sum(1 for move in moves if move.found.rows)
                reason = f"the block of {rows} tables with rows is longer than Snowflake takes"
                remedy = "cut the pipeline into several, or set its consistency to table"
                raise EtlError(Kind.APPLY, _place(message), reason, remedy)
            (outcome,) = cursor.execute(text).fetchone()
    except Error as error:
        raise classify(error, _place(message), Kind.APPLY) from None
    if outcome == MOVED:
        raise _moved(message, "somebody else has moved or altered its tables")
    for move in moves:
        labels = (message.pipeline, metrics.table_label(move.opening.table.name))
        metrics.APPLIED_ROWS.labels(*labels).inc(move.found.rows)


def _read(cursor: Any, message: ApplyTogether) -> tuple[Mark, list[Mark]]:
    """The pipeline's mark, which is made if there is none, and those of the tables. EtlError(APPLY) where the fence does not fit them."""
    own = names.pipeline_mark(message.pipeline_id)
    found = _marks(cursor, message)
    if own not in found:
        _begin(cursor, message)
        found = _marks(cursor, message)
    marks = []
    for part in message.parts:
        mark = found.get(message.destination.naming.landing_table(part.table))
        if mark is None or mark.generation != part.generation or mark.owner != message.owner:
            raise _moved(message, f"table {part.table} has another owner or generation")
        if mark.applied > message.fence:
            raise _moved(message, f"table {part.table} is further than the others")
        if not mark.offered:
            raise _moved(message, f"table {part.table} is being altered")
        marks.append(mark)
    return found[own], marks


def _marks(cursor: Any, message: ApplyTogether) -> dict[str, Mark]:
    cursor.execute(
        "SELECT LANDING_TABLE, GENERATION, APPLIED, OWNER, OFFERED, SHAPE, POLICY"
        f" FROM {_watermark(message)} WHERE PIPELINE_ID = {message.pipeline_id}"
    )
    return {name: Mark(int(generation), int(at), *rest) for name, generation, at, *rest in cursor.fetchall()}


def _begin(cursor: Any, message: ApplyTogether) -> None:
    """The pipeline's row."""
    own = literal(names.pipeline_mark(message.pipeline_id))
    cursor.execute(
        f"MERGE INTO {_watermark(message)} w USING (SELECT {own} AS LANDING_TABLE) s ON w.LANDING_TABLE = s.LANDING_TABLE"
        " WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, PIPELINE_ID, PIPELINE, OWNER, SOURCE_SCHEMA, SOURCE_TABLE, GENERATION, APPLIED,"
        " EPOCH, SHAPE, SHAPE_SINCE, POLICY, OFFERED, FENCE, BASE, SHOWN, HISTORY, PURGED, UPDATED_AT)"
        f" VALUES (s.LANDING_TABLE, {message.pipeline_id}, {literal(message.pipeline)}, {literal(message.owner)}, '', '', 0, 0,"
        f" {message.epoch}, '', '', '', '', 0, 0, 0, 0, 0, CURRENT_TIMESTAMP())"
    )


def _move(cursor: Any, message: ApplyTogether, part: Part, mark: Mark) -> Move:
    opening = OpenTable(
        handle=0,
        pipeline_id=message.pipeline_id,
        pipeline=message.pipeline,
        owner=message.owner,
        epoch=message.epoch,
        generation=part.generation,
        channel="",
        destination=message.destination,
        table=wire.load(Table, mark.shape),
        since="",
        policy=wire.load(ApplyPolicy, mark.policy),
    )
    start = mark.applied or part.copied
    found = applying.look(cursor, opening, start, message.fence) if part.rows else applying.NOTHING
    return Move(opening, mark, start, found)


# -- the statements


def block(message: ApplyTogether, pipeline: Mark, moves: list[Move]) -> str:
    """The whole joint apply as one statement."""
    own = literal(names.pipeline_mark(message.pipeline_id))
    steps = [*swapped(_tables_moved(message, moves), len(moves)), *swapped(_pipeline_moved(message, pipeline, own))]
    for move in moves:
        first = move.mark.applied == 0
        if first or move.found.rows:
            steps.append(nested(applying.moves(move.opening, move.start, message.fence, move.found, first=first)))
    times = " UNION ALL ".join(_commit_times(message, moves))
    if times:
        steps.append(
            f"UPDATE {_watermark(message)} SET COMMITTED_AT = COALESCE((SELECT MAX(NEWEST) FROM ({times}) q), COMMITTED_AT)"
            f" WHERE LANDING_TABLE = {own}"
        )
    return transaction(steps, "applied")


def _tables_moved(message: ApplyTogether, moves: list[Move]) -> str:
    """The compare-and-set of all tables: it changes a row for each, or the block ends."""
    fence, epoch = message.fence, message.epoch
    facts = " UNION ALL ".join(
        f"SELECT {literal(move.landing)} AS NAME, {move.opening.generation} AS GEN, {move.mark.applied} AS WAS,"
        f" {literal(move.mark.offered)} AS OFFER, {move.start} AS BEGUN, {str(move.opening.policy.history).upper()} AS KEEPS"
        for move in moves
    )
    return (
        f"UPDATE {_watermark(message)} m SET APPLIED = {fence}, EPOCH = {epoch}, UPDATED_AT = CURRENT_TIMESTAMP(), SHOWN = s.GEN,"
        f" BASE = IFF(m.APPLIED = 0, s.BEGUN, m.BASE), HISTORY = IFF(s.KEEPS, {fence}, m.HISTORY) FROM ({facts}) s"
        f" WHERE m.LANDING_TABLE = s.NAME AND m.OWNER = {literal(message.owner)} AND m.GENERATION = s.GEN"
        f" AND m.APPLIED = s.WAS AND m.OFFERED = s.OFFER AND m.EPOCH <= {epoch}"
    )


def _pipeline_moved(message: ApplyTogether, pipeline: Mark, own: str) -> str:
    """That of the pipeline's row, which follows the tables to another owner."""
    newest = max(part.generation for part in message.parts)
    return (
        f"UPDATE {_watermark(message)} SET APPLIED = {message.fence}, EPOCH = {message.epoch}, OWNER = {literal(message.owner)},"
        f" PIPELINE = {literal(message.pipeline)}, GENERATION = {newest}, SHOWN = {newest}, UPDATED_AT = CURRENT_TIMESTAMP()"
        f" WHERE LANDING_TABLE = {own} AND OWNER = {literal(pipeline.owner)} AND APPLIED = {pipeline.applied}"
        f" AND EPOCH <= {message.epoch}"
    )


def _commit_times(message: ApplyTogether, moves: list[Move]) -> Iterator[str]:
    """Of each table with rows the newest commit time in its window."""
    for move in moves:
        if move.found.rows:
            landing = _qualified(message, move.landing)
            window = applying.window_of(move.opening.generation, move.start, message.fence)
            yield f"SELECT MAX(_ETL_COMMIT_TS) AS NEWEST FROM {landing} WHERE {window}"


def _watermark(message: ApplyTogether) -> str:
    return _qualified(message, names.WATERMARK_TABLE)


def _qualified(message: ApplyTogether, table: str) -> str:
    there = message.destination
    return ".".join(map(quoted, (there.database.upper(), there.landing_schema.upper(), table)))


def _place(message: ApplyTogether) -> str:
    return f"pipeline {message.pipeline}"


def _moved(message: ApplyTogether, reason: str) -> EtlError:
    return EtlError(Kind.APPLY, _place(message), reason, "it is tried again by itself", transient=True)
