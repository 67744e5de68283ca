"""`sql`: one statement at the configured Snowflake, by the connector."""

from __future__ import annotations

import importlib
from typing import Any

from psycopg.rows import dict_row

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.repository import desired
from etl_supervisor.repository.connection import connect


def query(settings: Settings, statement: str, name: str | None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Titles and rows."""
    destination = _destination(settings, name)
    # A destination's worker knows how to reach it; this package does not import workers.
    worker = importlib.import_module(f"workers.{destination.type}.connection")
    session = worker.connect(destination, settings.keyring().decrypt, settings.directory, purpose="sql")
    try:
        with session.cursor() as cursor:
            cursor.execute(statement)
            return [item[0] for item in cursor.description], cursor.fetchall()
    except Exception as error:
        if hasattr(error, "errno"):
            raise worker.classify(error, f"destination {destination.name}", Kind.CONFIG) from None
        raise
    finally:
        session.close()


def _destination(settings: Settings, name: str | None) -> Destination:
    with connect(settings.config_dsn(), row_factory=dict_row) as connection:
        rows = connection.execute("SELECT * FROM app.destinations ORDER BY id").fetchall()
    for row in rows:
        if name in (None, row["name"]):
            return desired.destination(row)
    known = ", ".join(row["name"] for row in rows) or "none"
    raise EtlError(Kind.CONFIG, "destinations", f"there is no destination {name or ''}".strip(), f"known: {known}")
