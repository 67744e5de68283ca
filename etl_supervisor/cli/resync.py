"""`resync`: ask for a table, or for all tables of a pipeline, to be copied again; the reader does it at its next round, while the rest streams."""

from __future__ import annotations

import contextlib

import psycopg
from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import PipelineStatus
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.selecting import find_table
from etl_supervisor.state.choose import open_store


def request(settings: Settings, pipeline: str, table: str | None, console: Console) -> None:
    """Write the request down. EtlError(CONFIG) for a pipeline or table that is not known."""
    source, started = source_of(settings, pipeline)
    with contextlib.closing(open_store(settings)) as store:
        name = None
        if table is not None:
            name = find_table(list(store.tables(source, pipeline)), table, pipeline)
        store.ask_resync(source, pipeline, name)
    what = f"table {name}" if name is not None else "every table"
    when = "now" if started else "when the pipeline is started"
    console.print(f"{what} of pipeline {pipeline} is copied again {when}", markup=False, soft_wrap=True)


def source_of(settings: Settings, pipeline: str) -> tuple[str, bool]:
    """The source of a pipeline, and whether the pipeline is started."""
    sql = "SELECT s.name, p.status FROM app.pipelines p JOIN app.sources s ON s.id = p.source_id WHERE p.name = %s"
    try:
        with connect(settings.config_dsn()) as connection:
            row = connection.execute(sql, [pipeline]).fetchone()
    except psycopg.Error as error:
        raise trouble(error) from None
    if row is None:
        raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", "there is no pipeline of this name", "see `status`")
    return row[0], row[1] == PipelineStatus.START
