"""`status`: pipelines, tables, states, lag; from the config database and the state store, so it works beside a running supervisor.

Snowflake is asked only when rows went to the dead letter: how many are there still.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from etl_supervisor.cli import copies, dead_letter
from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model import lsn
from etl_supervisor.model.child import ChildStatus
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.progress import SourceReport, Visible
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.model.verified import Verified
from etl_supervisor.monitor.backfills import facts, under_way
from etl_supervisor.monitor.holder import host_of
from etl_supervisor.repository.desired import load
from etl_supervisor.repository.leases import Lease, leases
from etl_supervisor.repository.report import find as find_report
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.streams import arrange

WATCH_SECONDS = 1.0  # a reader reports every second
STALE_SECONDS = 10.0  # a reader reports every second; an older report is yesterday's news


@dataclass(slots=True)
class Status:
    """What is known now: (source, its report), (pipeline, source, tables' states, their copies), and lines of what is wrong."""

    sources: list[tuple[SourceSpec, SourceReport | None]] = field(default_factory=list)
    pipelines: list[tuple[str, str, dict[TableName, TableState], dict[TableName, CopyState]]] = field(
        default_factory=list
    )
    verified: dict[tuple[str, TableName], Verified] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    children: tuple[ChildStatus, ...] = ()
    leases: list[Lease] = field(default_factory=list)

    @property
    def copies(self) -> list[tuple[str, CopyState]]:
        """The copies that run or wait to go on, by `pipeline table`."""
        return [
            (f"{pipeline} {name}", found)
            for pipeline, _, states, known in self.pipelines
            for name, state in sorted(states.items())
            if (found := under_way(state, known.get(name))) is not None
        ]


def read(settings: Settings) -> Status:
    """Ask the config database and the state store."""
    loaded = load(settings)
    found = Status(troubles=[error.line for error in loaded.troubles], leases=leases(settings))
    reported = find_report(settings)
    if reported is not None and reported.fresh:
        found.children = reported.children
        found.troubles += [_breaks(child) for child in found.children if child.breaker != "closed"]
    with contextlib.closing(open_store(settings)) as store:
        for spec in arrange(loaded.specs, store):
            source = spec.source.stream
            told = store.report(source)
            found.sources.append((spec, told))
            found.troubles += [told.trouble] if told is not None and told.trouble else []
            found.troubles += [_waits(item) for item in (told.together if told is not None else ()) if item.waits]
            found.troubles += [_refuses(source, *item) for item in (told.breakers if told is not None else {}).items()]
            for name in (pipeline.name for pipeline in spec.pipelines):
                states = store.tables(spec.source.name, name)
                known = store.verified(spec.source.name, name)
                found.verified.update({(name, table): item for table, item in known.items()})
                found.pipelines.append((name, source, states, store.copies(spec.source.name, name)))
                found.troubles += [state.trouble for _, state in sorted(states.items()) if state.trouble]
    return found


def _breaks(child: ChildStatus) -> str:
    return f"child {child.name}: its breaker is {child.breaker.replace('_', '-')} after {child.restarts} restarts"


def _refuses(source: str, destination: str, state: str) -> str:
    """Empty while all is well."""
    if state == "closed":
        return ""
    return f"destination {destination}: the breaker of source {source} is {state.replace('_', '-')}; its stopped tables wait"


def _waits(found: Visible) -> str:
    shown = f"shows its tables as of {lsn.text(found.lsn)}" if found.lsn else "has not moved its tables yet"
    return f"pipeline {found.pipeline} {shown}; it waits: {found.waits}"


def show(settings: Settings, console: Console) -> None:
    """Print sources, tables, copies, troubles."""
    found = read(settings)
    console.print(_tables(found))
    for pipeline, _, states, _ in found.pipelines:
        found.troubles += _dead_rows(settings, pipeline, states)
    for line in filter(None, dict.fromkeys(found.troubles)):
        console.print(line, style="yellow", markup=False)


def watch(settings: Settings, console: Console, seconds: float = math.inf) -> None:
    """The same as it changes, with a bar for each copy; until Ctrl-C, or for so long."""
    until = time.monotonic() + seconds
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = read(settings)
            lines = (Text(line, style="yellow") for line in filter(None, dict.fromkeys(found.troubles)))
            live.update(Group(_tables(found), copies.bars(found.copies), *lines), refresh=True)
            if time.monotonic() >= until:
                return
            time.sleep(WATCH_SECONDS)


def as_json(settings: Settings) -> str:
    """The same for programs, as one JSON object. LSNs are texts, times Unix seconds."""
    found = read(settings)
    return orjson.dumps(
        {
            "sources": [_source_facts(spec, report) for spec, report in found.sources],
            "tables": [
                _table_facts(source, pipeline, state, known.get(name))
                | _verified_facts(found.verified.get((pipeline, name)))
                for pipeline, source, states, known in found.pipelines
                for name, state in sorted(states.items())
            ],
            "children": [asdict(child) for child in found.children],
            "leases": [{**asdict(lease), "holder": host_of(lease.holder)} for lease in found.leases],
            "troubles": list(filter(None, dict.fromkeys(found.troubles))),
        },
        option=orjson.OPT_INDENT_2,
    ).decode()


def _source_facts(spec: SourceSpec, report: SourceReport | None) -> dict[str, Any]:
    name = spec.source.stream
    if report is None:
        return {"source": name, "state": "not started yet"}
    places = {key: lsn.text(getattr(report, key)) for key in ("received", "durable", "confirmed", "wal_end")}
    together = [{**asdict(item), "lsn": lsn.text(item.lsn)} for item in report.together]
    return {"source": name, **asdict(report), **places, "lag_bytes": report.lag_bytes, "together": together}


def _table_facts(source: str, pipeline: str, state: TableState, known: CopyState | None) -> dict[str, Any]:
    found = under_way(state, known)
    return {
        "source": source,
        "pipeline": pipeline,
        "schema": state.table.schema,
        "table": state.table.name,
        "state": state.phase,
        "rows_copied": state.rows_copied,
        "dead": state.dead,
        "trouble": state.trouble,
        "copy": None if found is None else facts(found),
    }


def _verified_facts(found: Verified | None) -> dict[str, Any]:
    if found is None:
        return {"verified_through": None, "verified_at": None}
    return {"verified_through": lsn.text(found.lsn), "verified_at": found.at}


def _tables(found: Status) -> Group:
    sources = Table("source", "state", "confirmed", "lag", "rows", "runs at", title="Sources", title_justify="left")
    tables = Table("pipeline", "table", "state", "copied", "verified", title="Tables", title_justify="left")
    for spec, report in found.sources:
        held = [
            host_of(lease.holder)
            for lease in found.leases
            if lease.source == spec.source.name and lease.seconds_left > 0
        ]
        sources.add_row(*_source_row(spec, report), *held)
    for pipeline, _, states, known in found.pipelines:
        _table_rows(tables, pipeline, states, known, found.verified)
    return Group(sources, tables)


def _source_row(spec: SourceSpec, report: SourceReport | None) -> tuple[str, ...]:
    if report is None:
        return spec.source.stream, "not started yet", "", "", ""
    age = time.time() - report.reported_at
    state = report.state if age < STALE_SECONDS or report.state == "stopped" else f"no report for {age:,.0f} s"
    lag = f"{report.lag_bytes:,} bytes, {report.lag_seconds:.1f} s"
    return spec.source.stream, state, lsn.text(report.confirmed), lag, f"{report.rows:,}"


def _table_rows(
    tables: Table,
    pipeline: str,
    states: dict[TableName, TableState],
    known: dict[TableName, CopyState],
    verified: dict[tuple[str, TableName], Verified],
) -> None:
    """The rows of one pipeline, and its sum."""
    for name, state in sorted(states.items()):
        copy = under_way(state, known.get(name))
        copied = f"{state.rows_copied:,}" if copy is None else copies.line(copy)
        seen = verified.get((pipeline, name))
        tables.add_row(pipeline, str(name), state.phase, copied, "" if seen is None else lsn.text(seen.lsn))
    phases = Counter(str(state.phase) for state in states.values())
    summary = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "no table yet"
    tables.add_row(pipeline, "[dim]all[/]", f"[dim]{summary}[/]", "", "", end_section=True)


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
