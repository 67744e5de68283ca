"""`_ETL_STATE`: what a state store that is lost must be able to get back, beside the watermarks.

    Keep      the state of a table that is READY, as the store has it        one MERGE
    Recall    a store was lost: what is known of all tables of a pipeline    one SELECT

The shape and the place from which it holds are in the watermark row, and newer there. A state counts only in the generation of the watermark: a table
that began anew since and was not READY again has none.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import structlog
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import Keep, Kept, Recall, Recalled, Recollection, ToPublisher
from etl_supervisor.model import names
from workers.snowflake.connection import DOES_NOT_EXIST, classify
from workers.snowflake.identifiers import literal, quoted
from workers.snowflake.jobs import Jobs, Lane
from workers.snowflake.sessions import Sessions
from workers.snowflake.tagging import Tag

TABLES_PER_MESSAGE = 100  # a shape of 1,600 columns is 300 kB; a message holds 16 MB

log = structlog.get_logger()


class Memory:
    """Takes both messages of all publishers of one actor."""

    def __init__(self, jobs: Jobs, sessions: Sessions) -> None:
        self._jobs, self._sessions = jobs, sessions

    def take(self, message: Keep | Recall, send: Callable[[ToPublisher], None]) -> None:
        """Begin; the answer goes by `send`, from the loop's own thread."""

        def told(future: Future[Any]) -> None:
            match message:
                case Keep():
                    _kept(message, send, future)
                case Recall():
                    _recalled(message, send, future)

        self._jobs.start(message.destination.id, Lane.OPEN, partial(self._job, message), told)

    def _job(self, message: Keep | Recall) -> list[Recollection]:
        place = f"pipeline {message.pipeline}"

        def job(connection: Any) -> list[Recollection]:
            try:
                with connection.cursor() as cursor:
                    if isinstance(message, Recall):
                        return recall(cursor, message)
                    keep(cursor, message)
                    return []
            except Error as error:
                raise classify(error, place, Kind.DESTINATION_SETUP) from None

        return self._sessions.run(message.destination, Tag(message.pipeline, "", "state"), job)


def keep(cursor: Any, message: Keep) -> None:
    """Write a table's state; makes the table of states if there is none."""
    states = _qualified(message, names.STATE_TABLE)
    landing = literal(message.destination.naming.landing_table(message.table))
    values = f"{message.generation}, {literal(message.state)}, CURRENT_TIMESTAMP()"
    statement = (
        f"MERGE INTO {states} t USING (SELECT {landing} AS LANDING_TABLE) s ON t.LANDING_TABLE = s.LANDING_TABLE"
        f" WHEN MATCHED THEN UPDATE SET GENERATION = {message.generation}, STATE = {literal(message.state)},"
        " UPDATED_AT = CURRENT_TIMESTAMP()"
        f" WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, GENERATION, STATE, UPDATED_AT) VALUES (s.LANDING_TABLE, {values})"
    )
    try:
        cursor.execute(statement)
    except ProgrammingError as error:
        if error.errno != DOES_NOT_EXIST:
            raise
        _create(cursor, states)
        cursor.execute(statement)


def recall(cursor: Any, message: Recall) -> list[Recollection]:
    """What is known of the tables of a pipeline that this owner has; nothing where nothing was ever landed."""
    states, marks = (_qualified(message, table) for table in (names.STATE_TABLE, names.WATERMARK_TABLE))
    try:
        cursor.execute(f"SELECT 1 FROM {marks} LIMIT 1")
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return []
        raise
    _create(cursor, states)
    cursor.execute(
        "SELECT w.SOURCE_SCHEMA, w.SOURCE_TABLE, w.GENERATION, w.SHAPE, w.SHAPE_SINCE, s.STATE"
        f" FROM {marks} w LEFT JOIN {states} s ON s.LANDING_TABLE = w.LANDING_TABLE AND s.GENERATION = w.GENERATION"
        f" WHERE w.PIPELINE_ID = {message.pipeline_id} AND w.OWNER = {literal(message.owner)} AND w.SOURCE_TABLE <> ''"
        " ORDER BY w.LANDING_TABLE"
    )
    return [
        Recollection(schema, table, int(generation), shape, since, state or "")
        for schema, table, generation, shape, since, state in cursor.fetchall()
    ]


def _create(cursor: Any, states: str) -> None:
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {states} (LANDING_TABLE VARCHAR NOT NULL, GENERATION NUMBER(10,0) NOT NULL,"
        " STATE VARCHAR NOT NULL, UPDATED_AT TIMESTAMP_TZ(6), PRIMARY KEY (LANDING_TABLE))"
    )


def _qualified(message: Keep | Recall, table: str) -> str:
    names_ = (message.destination.database.upper(), message.destination.landing_schema.upper(), table)
    return ".".join(map(quoted, names_))


def _kept(message: Keep, send: Callable[[ToPublisher], None], future: Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        log.warning("state_not_kept", pipeline=message.pipeline, table=str(message.table), reason=_reason(error))
    send(Kept(message.handle, error is None))


def _recalled(message: Recall, send: Callable[[ToPublisher], None], future: Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        send(Recalled(message.pipeline_id, (), True, _reason(error)))
        return
    found = future.result()
    for at in range(0, max(1, len(found)), TABLES_PER_MESSAGE):
        part = tuple(found[at : at + TABLES_PER_MESSAGE])
        send(Recalled(message.pipeline_id, part, at + TABLES_PER_MESSAGE >= len(found), ""))


def _reason(error: BaseException) -> str:
    """Never the text of an error that nobody named: it may hold a value."""
    return error.line if isinstance(error, EtlError) else type(error).__name__
