"""`demo`: everything this program is for, in less than a minute, with the worst that can happen in the middle.

    copy     the shop's tables (about 100,000 rows)
    stream   20,000 mixed changes: insert, update, delete, key change, a truncate, unchanged TOAST
    meanwhile  a second source with its pipeline is added live; an actor and the reader are killed with SIGKILL
    drain    SIGTERM; exit code 0
    compare  every row of every table, and no position landed twice

Figures go to `.local/results/demo.json`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from rich.console import Console
from rich.table import Table

from etl_supervisor.cli.compare import Difference, compare_table
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.shop import (
    INVENTORY_PUBLICATION,
    SHOP_PUBLICATION,
    create_inventory,
    create_shop,
    transactions,
)
from etl_supervisor.embedded.stack import SNOWFLAKE_DATABASE, EmbeddedStack
from etl_supervisor.exits import Exit
from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase
from etl_supervisor.repository.desired import load as load_desired
from etl_supervisor.state.choose import open_store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

WAIT_SECONDS_MAX = 90.0  # for one step; on a laptop each takes a few seconds
POLL_SECONDS = 0.2
APPLY_SECONDS = 1.0
SEED = 7
LANDING_SCHEMA = "ETL_SCHEMA"
PACKAGES = ("psycopg", "pyarrow", "snowpipe-streaming", "snowflake-connector-python", "fakesnow", "duckdb", "redis")

console = Console()


class DemoError(Exception):
    """The demo could not go on; its text says where."""


@dataclass(slots=True)
class Figures:
    """What the demo measured; the result file."""

    ok: bool = False
    rows_copied: int = 0
    changes_streamed: int = 0
    differences: int = 0
    seconds: float = 0.0
    seconds_copy: float = 0.0
    seconds_stream: float = 0.0
    kills: int = 0


def demo(*, changes: int, rows: int, commit_delay_s: float) -> Exit:
    """Run it; OK when nothing differs."""
    base = load(environment={**os.environ, "PIPELINE_POLL_INTERVAL_SECS": "1", "METRICS_ADDR": "127.0.0.1:0"})
    directory = Path(base.directory, base.data_directory, "demo")
    shutil.rmtree(directory, ignore_errors=True)
    figures, started = Figures(), time.monotonic()
    with EmbeddedStack(directory, commit_delay_s=commit_delay_s) as stack:
        environment = {
            **os.environ,
            **stack.environment(),
            "PIPELINE_POLL_INTERVAL_SECS": "1",
            "METRICS_ADDR": f"127.0.0.1:{choose_port()}",
            "ETL_FAILPOINTS": os.environ.get("ETL_FAILPOINTS", ""),
        }
        settings = load(base.directory, environment)
        try:
            differences = _play(settings, stack, environment, figures, changes, rows)
        except DemoError as error:
            console.print(f"demo: {error}", style="red", markup=False)
            console.print(f"the supervisor's log: {directory / 'supervisor.log'}", markup=False)
            differences = []
    figures.seconds = round(time.monotonic() - started, 1)
    figures.differences = sum(difference.total for difference in differences)
    figures.ok = bool(differences) and figures.differences == 0
    _write(base, figures)
    _show(differences, figures)
    return Exit.OK if figures.ok else Exit.FAILED


def _play(
    settings: Settings, stack: EmbeddedStack, environment: dict[str, str], figures: Figures, changes: int, rows: int
) -> list[Difference]:
    shop = stack.postgres.create_database("shop")
    create_shop(shop, rows)
    stack.configure(settings, source="shop", database="shop", publication=SHOP_PUBLICATION, apply_seconds=APPLY_SECONDS)
    console.print(f"a shop with about {rows:,} rows; starting the supervisor")
    copying = time.monotonic()
    with _supervisor(settings, stack.directory, environment) as supervisor:
        _wait("the first copy", lambda: _ready(settings, "shop"), supervisor)
        figures.seconds_copy = round(time.monotonic() - copying, 1)
        console.print(f"copied in {figures.seconds_copy} s; streaming {changes:,} changes, with kills")
        streaming = time.monotonic()
        figures.kills = _disturbed_workload(settings, stack, supervisor, shop, changes)
        figures.changes_streamed = changes
        _wait("the inventory's copy", lambda: _ready(settings, "inventory"), supervisor)
        for source in ("shop", "inventory"):
            end = _wal_end(stack.postgres.dsn(source))
            _wait(f"{source} to be confirmed", lambda s=source, e=end: _confirmed(settings, s) >= e, supervisor)  # type: ignore[misc]
        with _session(settings) as (session, _):
            _wait("the targets", lambda: _applied(session), supervisor)
        figures.seconds_stream = round(time.monotonic() - streaming, 1)
        supervisor.send_signal(signal.SIGTERM)
        code = supervisor.wait(WAIT_SECONDS_MAX)
        if code != 0:
            raise DemoError(f"the supervisor ended with exit code {code}")
    console.print(f"streamed and drained in {figures.seconds_stream} s; comparing every row")
    store = open_store(settings)
    for source in ("shop", "inventory"):
        figures.rows_copied += sum(s.rows_copied for s in store.tables(source, f"{source}-to-snowflake").values())
    store.close()
    return _compare(settings, stack)


def _disturbed_workload(
    settings: Settings, stack: EmbeddedStack, supervisor: subprocess.Popen[bytes], shop: str, changes: int
) -> int:
    """The changes, with a source added live and two kills on the way; returns the kills that landed."""
    kills, done = 0, 0
    disturbances: list[tuple[float, Callable[[], int]]] = [
        (0.15, lambda: _add_inventory(settings, stack)),
        (0.35, lambda: _kill(supervisor.pid, "etl-actor-")),
        (0.65, lambda: _kill(supervisor.pid, "etl-reader-shop")),
    ]
    with psycopg.connect(shop, autocommit=True) as connection:
        for count in transactions(connection, changes, SEED):
            done += count
            while disturbances and done >= changes * disturbances[0][0]:
                kills += disturbances.pop(0)[1]()
    if kills < 2:
        raise DemoError(f"only {kills} of 2 kills landed")
    return kills


def _add_inventory(settings: Settings, stack: EmbeddedStack) -> int:
    create_inventory(stack.postgres.create_database("inventory"))
    stack.configure(
        settings,
        source="inventory",
        database="inventory",
        publication=INVENTORY_PUBLICATION,
        apply_seconds=APPLY_SECONDS,
    )
    return 0


def _kill(parent: int, name: str) -> int:
    """SIGKILL the first child of the supervisor whose name begins so."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                os.kill(int(pid), signal.SIGKILL)
                return 1
    return 0


@contextlib.contextmanager
def _supervisor(settings: Settings, directory: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor as a process of its own, as a service manager would start it."""
    with (directory / "supervisor.log").open("wb") as log:
        command = [sys.executable, "-m", "etl_supervisor.cli.main", "run"]
        process = subprocess.Popen(command, env=environment, cwd=settings.directory, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _ready(settings: Settings, source: str) -> bool:
    store = open_store(settings)
    try:
        states = store.tables(source, f"{source}-to-snowflake")
    finally:
        store.close()
    return bool(states) and all(state.phase is Phase.READY for state in states.values())


def _confirmed(settings: Settings, source: str) -> int:
    store = open_store(settings)
    try:
        progress = store.progress(source)
    finally:
        store.close()
    return progress.confirmed if progress is not None else 0


def _wal_end(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    return lsn.parse(row[0])


def _applied(session: SnowflakeConnection) -> bool:
    """No landed row is at or beyond its target's watermark."""
    schema = f'"{SNOWFLAKE_DATABASE}"."{LANDING_SCHEMA}"'
    with session.cursor() as cursor:
        cursor.execute(f"SELECT LANDING_TABLE, APPLIED FROM {schema}._ETL_WATERMARK WHERE SOURCE_TABLE <> ''")
        for table, applied in cursor.fetchall():
            cursor.execute(f'SELECT 1 FROM {schema}."{table}" WHERE _ETL_COMMIT_LSN >= {applied} LIMIT 1')
            if cursor.fetchone() is not None:
                return False
    return True


@contextlib.contextmanager
def _session(settings: Settings) -> Iterator[tuple[SnowflakeConnection, Destination]]:
    destination = load_desired(settings).specs[0].pipelines[0].destination
    worker = importlib.import_module("workers.snowflake.connection")
    session = worker.connect(destination, settings.keyring().decrypt, settings.directory, purpose="demo")
    try:
        yield session, destination
    finally:
        session.close()


def _compare(settings: Settings, stack: EmbeddedStack) -> list[Difference]:
    found = []
    with _session(settings) as (session, there):
        for source in ("shop", "inventory"):
            with psycopg.connect(stack.postgres.dsn(source)) as connection:
                tables = connection.execute(
                    "SELECT c.relname, array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))"
                    " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid"
                    " AND a.attnum = ANY(i.indkey) WHERE i.indisprimary AND c.relnamespace = 'public'::regnamespace"
                    " GROUP BY c.relname ORDER BY c.relname"
                ).fetchall()
            url = stack.postgres.url(source)
            psql = stack.postgres.psql_path
            found += [compare_table(psql, url, session, TableName("public", t), tuple(k), there) for t, k in tables]
    return found


def _wait(what: str, done: Callable[[], bool], supervisor: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        if supervisor.poll() is not None:
            raise DemoError(f"the supervisor ended with exit code {supervisor.returncode} while we waited for {what}")
        if time.monotonic() > deadline:
            raise DemoError(f"waited {WAIT_SECONDS_MAX:.0f} s for {what}")
        time.sleep(POLL_SECONDS)


def _write(settings: Settings, figures: Figures) -> None:
    path = Path(settings.directory, settings.data_directory, "results", "demo.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    versions = {name: metadata.version(name) for name in PACKAGES}
    path.write_text(json.dumps({**asdict(figures), **machine, **versions}, indent=2) + "\n")


def _show(differences: list[Difference], figures: Figures) -> None:
    table = Table("table", "source", "target", "missing", "extra", "unequal", "doubled", "landed twice")
    for item in differences:
        rows = (item.source_rows, item.target_rows, item.missing, item.extra, item.unequal, item.doubled)
        counts = (*rows, item.landed_twice)
        table.add_row(item.table, *(f"{count:,}" for count in counts))
    if differences:
        console.print(table)
    for item in differences:
        for sample in item.samples:
            console.print(f"{item.table}: {sample}", style="red", markup=False)
    copied, streamed = f"{figures.rows_copied:,} rows copied", f"{figures.changes_streamed:,} changes streamed"
    console.print(f"{copied}, {streamed}, {figures.kills} kills, {figures.seconds} s")
    console.print("demo: OK" if figures.ok else f"demo: {figures.differences} differences")
