"""`dead-letter`: the rows that Snowflake did not take, at every destination; replayed when the cause is gone, or dropped."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import orjson
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from etl_supervisor.model.dead_rows import chosen
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.repository import desired
from etl_supervisor.repository.connection import connect


def show(settings: Settings, pipeline: str | None, console: Console, *, as_json: bool) -> None:
    """Print the dead rows: a table, or a JSON object per line."""
    found = rows(settings, pipeline)
    if as_json:
        for row in found:
            console.print(orjson.dumps(row, default=str).decode(), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("id", "pipeline", "table", "position", "op", "key", "reason", "since")
    for row in found:
        at = lsn.text(int(row["commit_lsn"]))
        since = str(row["dead_at"])[:19]
        table.add_row(
            row["id"], row["pipeline"], row["source_table"], at, row["op"], row["row_key"], row["reason"], since
        )
    console.print(table if found else "no row is in the dead letter")


def rows(settings: Settings, pipeline: str | None) -> list[dict[str, Any]]:
    """The heads of all dead rows, of one pipeline or of all."""
    found = []
    for destination in _destinations(settings, pipeline):
        with _session(settings, destination) as (worker, session):
            found += worker.listed(session, destination, pipeline)
    return found


def replay(
    settings: Settings, pipeline: str, console: Console, ids: list[str] | None = None, table: str | None = None
) -> bool:
    """Bring dead rows of a pipeline to their place; True when every one was."""
    whole = True
    for destination in _destinations(settings, pipeline):
        with _session(settings, destination) as (worker, session):
            meant = _meant(worker.listed(session, destination, pipeline), pipeline, ids, table)
            for name, outcome in worker.replay(session, destination, meant):
                console.print(f"{name}  {outcome}", markup=False, soft_wrap=True)
                whole = whole and outcome is worker.Outcome.REPLAYED
    return whole


def drop(
    settings: Settings, pipeline: str, console: Console, ids: list[str] | None = None, table: str | None = None
) -> None:
    """Forget dead rows of a pipeline."""
    for destination in _destinations(settings, pipeline):
        with _session(settings, destination) as (worker, session):
            meant = _meant(worker.listed(session, destination, pipeline), pipeline, ids, table)
            worker.drop(session, destination, [row["id"] for row in meant])
            console.print(f"{len(meant)} dropped")


def _meant(
    found: list[dict[str, Any]], pipeline: str, ids: list[str] | None, table: str | None
) -> list[dict[str, Any]]:
    """The rows with these ids and of this table, all without either. EtlError(CONFIG) for an id that is not there, and for a table without any."""
    meant, unknown = chosen(found, ids or None, table)
    remedy = f"see `etl-supervisor dead-letter list --pipeline {pipeline}`"
    if unknown:
        raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", f"no dead row has the id {', '.join(unknown)}", remedy)
    if table is not None and not meant:
        raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", f"no dead row is of table {table}", remedy)
    return meant


def _destinations(settings: Settings, pipeline: str | None) -> list[Destination]:
    """Where a pipeline goes; every destination without one."""
    with connect(settings.config_dsn(), row_factory=dict_row) as connection:
        found = connection.execute(
            "SELECT * FROM app.destinations d WHERE %(name)s::text IS NULL OR EXISTS (SELECT FROM app.pipelines p"
            " WHERE p.destination_id = d.id AND p.name = %(name)s) ORDER BY id",
            {"name": pipeline},
        ).fetchall()
    if pipeline is not None and not found:
        raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", "there is no pipeline of this name", "see `status`")
    return [desired.destination(row) for row in found]


@contextlib.contextmanager
def _session(settings: Settings, destination: Destination) -> Iterator[tuple[Any, Any]]:
    """What the destination's worker can do with its dead letter, and a session for it; this package does not import workers."""
    worker = importlib.import_module(f"workers.{destination.type}.connection")
    session = worker.connect(destination, settings.keyring().decrypt, settings.directory, purpose="dead-letter")
    try:
        yield importlib.import_module(f"workers.{destination.type}.replay"), session
    finally:
        session.close()
