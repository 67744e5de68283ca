"""What an actor knows of a landing schema without asking for each table: which tables have a watermark row, and how wide a type is made.

    first open        one SELECT each of `_ETL_WATERMARK` and the dead letter; what is missing of schemas and system tables is made
    a table in it     is looked at as it is (`ddl`)
    any other         nothing of it should be there: it is made by one block (`fresh`), without a look

What is known may be old. So it only chooses the way: the block fails where something is there after all, then everything is looked at, and what is
known is asked for anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from snowflake.connector.errors import ProgrammingError

from etl_supervisor.model.pipeline import Destination
from workers.snowflake import dead_letter, marks
from workers.snowflake.connection import DOES_NOT_EXIST
from workers.snowflake.identifiers import Objects

ALONE_SECONDS_MAX = 10.0  # who is altering a table then hangs, and its session may do so for minutes


@dataclass(slots=True)
class Stock:
    """One landing schema with one target schema. `tables` are landing tables with a watermark row, in upper
    case (a destination that keeps case now may not have done so before), None when that is not known; `described`
    is how DESCRIBE spells the types that we ask for (Snowflake chooses the length of a VARCHAR by the account and the day). `epochs` are those
    up to which older readers of a pipeline are shut out; `rooms` has a lock for each table that was opened."""

    tables: set[str] | None = None
    described: dict[str, str] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    rooms: dict[str, threading.Lock] = field(default_factory=dict)

    @contextlib.contextmanager
    def alone(self, landing: str) -> Iterator[None]:
        """Nobody else of this actor opens the table meanwhile (a copy and the stream have shapes of two places, and a job of an earlier life may
        still be altering it), unless they hang."""
        room = self.rooms.setdefault(landing, threading.Lock())
        entered = room.acquire(timeout=ALONE_SECONDS_MAX)
        try:
            yield
        finally:
            if entered:
                room.release()

    def shut_out(self, pipeline_id: int, epoch: int, update: Callable[[], None]) -> None:
        """Run `update` once for each epoch of a pipeline; who comes meanwhile waits for it."""
        with self.lock:
            if self.epochs.get(pipeline_id, 0) < epoch:
                update()
                self.epochs[pipeline_id] = epoch

    def has(self, landing: str) -> bool:
        """Whether a table was there when it was asked for, or opened since."""
        return landing.upper() in (self.tables or ())

    def found(self, landing: str) -> None:
        """A table is there."""
        with self.lock:
            if self.tables is not None:
                self.tables.add(landing.upper())

    def forget(self) -> None:
        """Something was not as it is known: the next open asks."""
        with self.lock:
            self.tables = None

    def learn(self, asked: Iterable[tuple[str, str]], found: Iterable[tuple[str, str]]) -> None:
        """Types as they were asked for, and as they are now; both (column, type)."""
        kinds = dict(found)
        self.described |= {kind: kinds[name] for name, kind in asked if name in kinds}

    def spelled(self, asked: Iterable[tuple[str, str]]) -> list[tuple[str, str]] | None:
        """Columns as DESCRIBE would tell them; None when a type was never seen."""
        columns = list(asked)
        if any(kind not in self.described for _, kind in columns):
            return None
        return [(name, self.described[kind]) for name, kind in columns]


class Inventory:
    """All landing schemas of one actor; safe for its job threads."""

    def __init__(self) -> None:
        self._stocks: dict[tuple[str | None, ...], Stock] = {}

    def stock(self, cursor: Any, destination: Destination, objects: Objects) -> Stock:
        """What is known of the schemas of a table; asked for if it is not. One thread asks, the others of these schemas wait for it."""
        key = (destination.host, destination.account, objects.database, objects.landing_schema, objects.schema)
        stock = self._stocks.setdefault(key, Stock())
        with stock.lock:
            if stock.tables is None:
                stock.tables = _look(cursor, objects)
        return stock


def _look(cursor: Any, objects: Objects) -> set[str]:
    try:
        rows = cursor.execute(f"SELECT LANDING_TABLE FROM {objects.watermark_sql}").fetchall()
        marks.create_schema(cursor, objects, objects.schema)
    except ProgrammingError as error:
        if error.errno != DOES_NOT_EXIST:
            raise
        rows = []
        marks.create_schemas(cursor, objects)
    if not dead_letter.is_complete(cursor, objects):
        dead_letter.complete(cursor, objects)
    return {landing.upper() for (landing,) in rows}
