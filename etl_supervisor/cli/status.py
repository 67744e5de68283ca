"""`status`: pipelines, tables, states, lag; from the config database and the state store, so it works beside a running supervisor.

Snowflake is asked only when rows went to the dead letter: how many are there still.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from etl_supervisor.cli import dead_letter
from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.repository.desired import load
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.store import StateStore

STALE_SECONDS = 10.0  # a reader reports every second; an older report is yesterday's news


def show(settings: Settings, console: Console) -> None:
    """Print both tables."""
    loaded = load(settings)
    store = open_store(settings)
    sources = Table("source", "state", "confirmed", "lag", "rows", title="Sources", title_justify="left")
    tables = Table("pipeline", "table", "state", "copied", title="Tables", title_justify="left")
    troubles = [error.line for error in loaded.troubles]
    for spec in loaded.specs:
        report = store.report(spec.source.name)
        sources.add_row(*_source_row(spec, report))
        if report is not None and report.trouble:
            troubles.append(report.trouble)
        troubles += _table_rows(tables, spec, store)
        for pipeline in spec.pipelines:
            troubles += _dead_rows(settings, pipeline.name, store.tables(spec.source.name, pipeline.name))
    store.close()
    console.print(sources)
    console.print(tables)
    for line in dict.fromkeys(troubles):
        console.print(line, style="yellow", markup=False)


def _source_row(spec: SourceSpec, report: SourceReport | None) -> tuple[str, ...]:
    if report is None:
        return spec.source.name, "not started yet", "", "", ""
    age = time.time() - report.reported_at
    state = report.state if age < STALE_SECONDS or report.state == "stopped" else f"no report for {age:,.0f} s"
    lag = f"{report.lag_bytes:,} bytes, {report.lag_seconds:.1f} s"
    return spec.source.name, state, lsn.text(report.confirmed), lag, f"{report.rows:,}"


def _table_rows(tables: Table, spec: SourceSpec, store: StateStore) -> list[str]:
    """The rows of one source; returns what is wrong with its tables."""
    troubles = []
    for pipeline in spec.pipelines:
        states = store.tables(spec.source.name, pipeline.name)
        for name, state in sorted(states.items()):
            tables.add_row(pipeline.name, str(name), state.phase, f"{state.rows_copied:,}")
            troubles += [state.trouble] if state.trouble else []
        phases = Counter(str(state.phase) for state in states.values())
        summary = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "no table yet"
        tables.add_row(pipeline.name, "[dim]all[/]", f"[dim]{summary}[/]", "", end_section=True)
    return troubles


def _dead_rows(settings: Settings, pipeline: str, states: dict[TableName, TableState]) -> list[str]:
    """A line for each table with rows in the dead letter."""
    held = {str(name): state.dead for name, state in states.items() if state.dead}
    if held:
        with contextlib.suppress(EtlError):  # a Snowflake that does not answer: as many as the reader knows
            held = Counter(row["source_table"] for row in dead_letter.rows(settings, pipeline))
    return [
        f"dead letter: {count:,} of pipeline {pipeline}, table {table} (see `etl-supervisor dead-letter list`)"
        for table, count in sorted(held.items())
    ]
