"""Connections to the config database, as the DB_POOL_* settings say: kept, tested before use, the last returned first, made anew with age.

SQLAlchemy's pool keeps psycopg's connections; no statement is SQLAlchemy's. A request takes one for as long as a transaction lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
import sqlalchemy
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from etl_supervisor.monitor import metrics
from etl_supervisor.repository.connection import connect

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

STATEMENT_TIMEOUT_MS = 15_000  # no request waits longer for one statement; lists take milliseconds

Connection = psycopg.Connection[DictRow]


class Pool:
    """Opens nothing until it is asked."""

    def __init__(self, settings: Settings) -> None:
        dsn, options = settings.config_dsn(), f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: _connection(dsn, options),
            pool_size=settings.db_pool_size,
            max_overflow=settings.db_max_overflow,
            pool_timeout=settings.db_pool_timeout,
            pool_recycle=settings.db_pool_recycle,
            pool_pre_ping=True,
            pool_use_lifo=True,
        )
        metrics.API_POOL.labels("limit").set(settings.db_pool_size + settings.db_max_overflow)
        self._tell()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection whose work is committed at the end, or undone when something is raised. Rows are dicts."""
        pooled = self._engine.raw_connection()
        self._tell()
        try:
            connection: Any = pooled.driver_connection
            connection.row_factory = dict_row
            yield connection
            pooled.commit()
        finally:
            pooled.close()  # undoes what was not committed
            self._tell()

    def status(self) -> dict[str, int]:
        """How many connections there are: at most `size` + `max_overflow`."""
        pool: Any = self._engine.pool
        return {
            "size": pool.size(),
            "max_overflow": pool._max_overflow,
            "checked_out": pool.checkedout(),
            "idle": pool.checkedin(),
        }

    def close(self) -> None:
        """Give the idle ones up."""
        self._engine.dispose()
        self._tell()

    def _tell(self) -> None:
        pool: Any = self._engine.pool
        metrics.API_POOL.labels("in_use").set(pool.checkedout())
        metrics.API_POOL.labels("idle").set(pool.checkedin())


def _connection(dsn: str, options: str) -> psycopg.Connection[Any]:
    connection = connect(dsn, options=options, application_name="etl-stream api")
    set_json_loads(orjson.loads, connection)  # half of the time that a page of pipelines takes to read
    return connection
