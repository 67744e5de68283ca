"""`retry`: ask for the tables of a pipeline that are in trouble to be tried again now.

The reader begins again at its confirmed position, at the next poll of the configuration: rows of a held table come only from there.
"""

from __future__ import annotations

import contextlib

import psycopg
from rich.console import Console

from etl_supervisor.cli.resync import source_of
from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.selecting import find_table
from etl_supervisor.state.choose import open_store


def request(settings: Settings, pipeline: str, table: str | None, console: Console) -> None:
    """Write the request down. EtlError(CONFIG) for a pipeline that is not known, and where nothing is in trouble."""
    source, started = source_of(settings, pipeline)
    with contextlib.closing(open_store(settings)) as store:
        states = store.tables(source, pipeline)
    names = list(states) if table is None else [find_table(list(states), table, pipeline)]
    stopped = [name for name in names if states[name].trouble]
    if not stopped:
        reason = f"no table is in trouble ({len(names)} looked at)"
        raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", reason, "to copy a table again use `resync`")
    try:
        with connect(settings.config_dsn()) as connection:
            connection.execute("UPDATE app.pipelines SET retries = retries + 1 WHERE name = %s", [pipeline])
    except psycopg.Error as error:
        raise trouble(error) from None
    when = "at the next look at the configuration" if started else "when the pipeline is started"
    what = ", ".join(map(str, sorted(stopped)))
    console.print(f"{what} of pipeline {pipeline} is tried again {when}", markup=False, soft_wrap=True)
