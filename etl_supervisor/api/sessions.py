"""Connections to sources and destinations, for a look or a change that somebody asks for; never for rows.

The workers know how to reach them (TLS, keys, what an error means). They are named, not imported, as everywhere on this side.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import DictRow, dict_row

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Source
from etl_supervisor.repository import desired

if TYPE_CHECKING:
    from etl_supervisor.api.control import Control

STATEMENT_TIMEOUT_MS = (
    10_000  # a look at a catalog takes milliseconds; a lock that does not come must not hold the request
)


@contextlib.contextmanager
def of_source(control: Control, row: dict[str, Any], **extra: str) -> Iterator[psycopg.Connection[DictRow]]:
    """An ordinary connection (autocommit) to the source of this row. What its server refuses is an EtlError(SOURCE_SETUP)."""
    source = desired.source_of(row)
    password = control.keyring.decrypt(source.pg_password) if source.pg_password else None
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}"
    connection = _reader("stream").connect(source, password, **({"options": options} | extra))
    connection.row_factory = dict_row
    try:
        yield connection
    except psycopg.DataError:  # what was asked has something that PostgreSQL can't take
        raise
    except psycopg.Error as error:
        reason, remedy = error.diag.message_primary or type(error).__name__, error.diag.message_hint or ""
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            remedy = f"give user {source.pg_username} what scripts/sql/postgres_role.sql lists for it"
        raise EtlError(Kind.SOURCE_SETUP, f"source {source.name}", reason, remedy) from None
    finally:
        connection.close()


def check_source(connection: psycopg.Connection[Any], source: Source) -> bool:
    """What must hold before a stream may start; True for a standby. EtlError(SOURCE_SETUP) with the remedy."""
    connection.row_factory = psycopg.rows.tuple_row
    return bool(_reader("source").check(connection, source))


@contextlib.contextmanager
def of_destination(control: Control, row: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """What its worker can do with a dead letter, a session, and the destination. EtlError(DESTINATION_…)."""
    destination = desired.destination(row)
    worker = importlib.import_module(f"workers.{destination.type}.connection")
    session = worker.connect(destination, control.keyring.decrypt, control.settings.directory, purpose="api")
    try:
        yield importlib.import_module(f"workers.{destination.type}.replay"), session, destination
    finally:
        session.close()


def _reader(module: str) -> Any:
    return importlib.import_module(f"workers.reader.{module}")
