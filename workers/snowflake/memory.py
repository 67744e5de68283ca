"""`_ETL_STATE`: what a state store that is lost must be able to get back, beside the watermarks.

    Keep      the state of a table that is READY, as the store has it        one MERGE, for all that came while the last one ran
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
from etl_supervisor.model.table import TableName
from workers.snowflake.connection import DOES_NOT_EXIST, classify
from workers.snowflake.identifiers import literal, quoted
from workers.snowflake.jobs import Jobs, Lane
from workers.snowflake.sessions import Sessions
from workers.snowflake.tagging import Tag

TABLES_PER_MESSAGE = 100  # a shape of 1,600 columns is 300 kB; a message holds 16 MB
CHARACTERS_PER_STATEMENT = 250_000  # of states, before they are quoted: a statement of Snowflake's has at most 1 MB

log = structlog.get_logger()


Send = Callable[[ToPublisher], None]
Asked = tuple[Keep, Send]


class Memory:
    """Takes both messages of all publishers of one actor."""

    def __init__(self, jobs: Jobs, sessions: Sessions) -> None:
        self._jobs, self._sessions = jobs, sessions
        self._waiting: dict[tuple[int, str], list[Asked]] = {}  # by destination and pipeline of which some are written

    def take(self, message: Keep | Recall, send: Send) -> None:
        """Begin; the answer goes by `send`, from the loop's own thread."""
        if isinstance(message, Recall):
            self._start(message, partial(recall, message=message), partial(_recalled, message, send))
            return
        key = (message.destination.id, message.pipeline)
        if key in self._waiting:
            self._waiting[key].append((message, send))
        else:
            self._waiting[key] = [(message, send)]
            self._keep_next(key)

    def _keep_next(self, key: tuple[int, str]) -> None:
        """Write what waits, as far as it goes together; then the rest and what came meanwhile."""
        if not self._waiting[key]:
            del self._waiting[key]
            return
        some, self._waiting[key] = together(self._waiting[key])

        def told(future: Future[Any]) -> None:
            if future.exception() is not None and len(some) > 1:
                for item in some:  # it may be one of them
                    self._start(item[0], partial(keep, messages=[item[0]]), partial(_kept, [item]))
            else:
                _kept(some, future)
            self._keep_next(key)

        self._start(some[0][0], partial(keep, messages=[message for message, _ in some]), told)

    def _start(self, message: Keep | Recall, work: Callable[..., Any], told: Callable[[Future[Any]], None]) -> None:
        def job(connection: Any) -> Any:
            try:
                with connection.cursor() as cursor:
                    return work(cursor)
            except Error as error:
                raise classify(error, f"pipeline {message.pipeline}", Kind.DESTINATION_SETUP) from None

        run = partial(self._sessions.run, message.destination, Tag(message.pipeline, "", "state"), job)
        self._jobs.start(message.destination.id, Lane.OPEN, run, told)


def together(waiting: list[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Those that are written by one statement, the first among them, each table once; and the others."""
    some: list[Asked] = []
    others: list[Asked] = []
    tables: set[TableName] = set()
    characters = 0
    for item in waiting:
        message = item[0]
        characters += len(message.state)
        fits = message.destination == waiting[0][0].destination and message.table not in tables
        if not some or (fits and characters <= CHARACTERS_PER_STATEMENT and len(some) < TABLES_PER_MESSAGE):
            some.append(item)
            tables.add(message.table)
        else:
            others.append(item)
    return some, others


def keep(cursor: Any, messages: list[Keep]) -> None:
    """Write the states of tables of one destination; makes the table of states if there is none."""
    states = _qualified(messages[0], names.STATE_TABLE)
    rows = " UNION ALL ".join(
        f"SELECT {literal(message.destination.naming.landing_table(message.table))} AS LANDING_TABLE,"
        f" {message.generation} AS GENERATION, {literal(message.state)} AS STATE"
        for message in messages
    )
    statement = (
        f"MERGE INTO {states} t USING ({rows}) s ON t.LANDING_TABLE = s.LANDING_TABLE"
        " WHEN MATCHED THEN UPDATE SET GENERATION = s.GENERATION, STATE = s.STATE, UPDATED_AT = CURRENT_TIMESTAMP()"
        " WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, GENERATION, STATE, UPDATED_AT)"
        " VALUES (s.LANDING_TABLE, s.GENERATION, s.STATE, CURRENT_TIMESTAMP())"
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
        "SELECT w.SOURCE_SCHEMA, w.SOURCE_TABLE, w.GENERATION, w.SHAPE, w.SHAPE_SINCE, s.STATE, w.EPOCH"
        f" FROM {marks} w LEFT JOIN {states} s ON s.LANDING_TABLE = w.LANDING_TABLE AND s.GENERATION = w.GENERATION"
        f" WHERE w.PIPELINE_ID = {message.pipeline_id} AND w.OWNER = {literal(message.owner)} AND w.SOURCE_TABLE <> ''"
        " ORDER BY w.LANDING_TABLE"
    )
    return [
        Recollection(schema, table, int(generation), shape, since, state or "", int(epoch))
        for schema, table, generation, shape, since, state, epoch in cursor.fetchall()
    ]


def _create(cursor: Any, states: str) -> None:
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {states} (LANDING_TABLE VARCHAR NOT NULL, GENERATION NUMBER(10,0) NOT NULL,"
        " STATE VARCHAR NOT NULL, UPDATED_AT TIMESTAMP_TZ(6), PRIMARY KEY (LANDING_TABLE))"
    )


def _qualified(message: Keep | Recall, table: str) -> str:
    names_ = (message.destination.database.upper(), message.destination.landing_schema.upper(), table)
    return ".".join(map(quoted, names_))


def _kept(some: list[Asked], future: Future[Any]) -> None:
    error = future.exception()
    for message, send in some:
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
