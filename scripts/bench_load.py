"""How fast rows come to Snowflake: the encoder alone, the whole way into the local Snowflake, and the latency of single changes.

    ndjson     Arrow -> NDJSON on one core, against to_pylist + json in the same process
    counting   commit in PostgreSQL -> durable, a backlog of ten-column rows, the local Snowflake in its counting mode
    storing    the same into landing table and target, stored by the local Snowflake (DuckDB is part of the figure)
    latency    1,000 changes/s in transactions of ten, batch_max_fill_ms 20: the oldest row of each batch, by the live metrics
    idle       RssAnon of four actors that have an open table and nothing to do

A backlog is written while the supervisor is stopped; a rate counts from the first durable rows on, so the start of the processes is left out, and the
writer does not take part. Everything runs on this machine: PostgreSQL, Valkey, the supervisor and its children, the local Snowflake.

    make bench-load ARGS="--scale 0.2"

Figures go to .local/results/bench-load.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import decimal
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.stack import SNOWFLAKE_DATABASE, EmbeddedStack
from etl_supervisor.model.table_state import Phase
from etl_supervisor.repository.write import upsert
from etl_supervisor.state.choose import open_store

RESULTS = Path(".local/results/bench-load.json")
SOURCE = "bench"
ACTORS = 4
BATCH_ROWS = 10_000
STEP_ROWS = 50_000  # of one transaction of the backlog
WAIT_SECONDS_MAX = 300.0
STARTING_SECONDS_MAX = 120.0
LOG_CHARACTERS = 3000  # shown of each log when a work does not come to its end
POLL_SECONDS = 0.05
IDLE_SECONDS = 5.0
LATENCY_SECONDS, WARM_SECONDS = 20.0, 2.0
CHANGES_PER_SECOND, CHANGES_PER_TRANSACTION = 1000, 10
FILL_MS_BULK, FILL_MS_QUICK = 500, 20
APPLY_SECONDS = 1.0

TABLE = """CREATE TABLE t (id bigint PRIMARY KEY, n int, name text, note text, amount numeric(12,2), at timestamptz, ok bool, doc jsonb,
 uid uuid, f float8); CREATE PUBLICATION p FOR TABLE t"""
ROWS = """INSERT INTO t SELECT g, g %% 1000, 'name ' || g, 'a longer note of row number ' || g, (g %% 100000) / 7.0,
 '2024-01-01 00:00:00+00'::timestamptz + g * interval '1.000037 s',
 g %% 3 = 0, jsonb_build_object('k', g, 'tags', jsonb_build_array('a', 'b')), gen_random_uuid(), g / 3.0 FROM generate_series(%s::bigint, %s) g"""


# -- the encoder alone


def ndjson(rounds: int) -> dict[str, float]:
    """Rows per second of one core, and how many times faster than row by row."""
    import pyarrow as pa

    from etl_supervisor.ipc.arrow import change_log_schema
    from etl_supervisor.model.table import Column, Table, TableName
    from etl_supervisor.model.types import ValueKind, ValueType
    from workers.snowflake.ndjson import encode

    pa.set_cpu_count(1)
    kinds = {
        "id": ValueType(ValueKind.INT64),
        "n": ValueType(ValueKind.INT32),
        "name": ValueType(ValueKind.TEXT),
        "note": ValueType(ValueKind.TEXT),
        "amount": ValueType(ValueKind.NUMERIC, 12, 2),
        "at": ValueType(ValueKind.TIMESTAMPTZ),
        "ok": ValueType(ValueKind.BOOLEAN),
        "doc": ValueType(ValueKind.JSON),
        "uid": ValueType(ValueKind.UUID),
        "f": ValueType(ValueKind.FLOAT64),
    }
    table = Table(TableName("public", "t"), 1, tuple(Column(name, kind) for name, kind in kinds.items()))
    batch = pa.RecordBatch.from_pylist([_row(number) for number in range(BATCH_ROWS)], change_log_schema(table))
    plain = _seconds(lambda: "\n".join(json.dumps(row, default=str) for row in batch.to_pylist()), rounds)
    ours = _seconds(lambda: encode(batch, table, 1, "2024-01-01 00:00:00+00:00"), rounds * 5)
    return {"ndjson_rows_per_s": round(BATCH_ROWS / ours), "ndjson_ratio_to_pylist": round(plain / ours, 2)}


def _row(number: int) -> dict[str, Any]:
    """A change-log row; ten rows are a transaction, so positions and times vary as they do in a stream."""
    transaction = number // CHANGES_PER_TRANSACTION
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return {
        "_etl_op": "I",
        "_etl_commit_lsn": 0x1_0000_0000 + transaction * 1000,
        "_etl_lsn": 0x1_0000_0000 + number * 100,
        "_etl_index": 0,
        "_etl_commit_ts": at + dt.timedelta(milliseconds=transaction),
        "_etl_xid": 1000 + transaction,
        "id": number,
        "n": number % 1000,
        "name": f"name {number}",
        "note": f"a longer note of row number {number}",
        "amount": decimal.Decimal(number).scaleb(-2),
        "at": at + dt.timedelta(seconds=number * 1.000037),
        "ok": number % 3 == 0,
        "doc": f'{{"k": {number}, "tags": ["a", "b"]}}',
        "uid": str(uuid.UUID(int=number * 0x1234567890ABCDEF)),
        "f": number / 3,
    }


def _seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of some rounds, after one to warm up."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


# -- the whole way


class Bench:
    """One deployment; the supervisor is started and stopped around the works."""

    def __init__(self, stack: EmbeddedStack, directory: Path, metrics_address: str) -> None:
        self._stack, self._directory, self._metrics_address = stack, directory, metrics_address
        self._environment = {
            **os.environ,
            **stack.environment(),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path])),
            "PIPELINE_POLL_INTERVAL_SECS": "1",
            "SNOWFLAKE_ACTOR_POOL_SIZE": str(ACTORS),
            "METRICS_ADDR": metrics_address,
        }
        self._settings: Settings = load(directory, self._environment)
        self._dsn = stack.postgres.create_database(SOURCE)
        self._rows = 0
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(TABLE)
        stack.configure(self._settings, source=SOURCE, database=SOURCE, publication="p", apply_seconds=APPLY_SECONDS)

    def idle(self) -> float:
        """RssAnon of all actors together, MB."""
        with self._supervisor(FILL_MS_BULK) as pid:
            _wait("the table to be ready", self._ready, STARTING_SECONDS_MAX)
            time.sleep(IDLE_SECONDS)
            return sum(_rss_anon_mb(child) for child in _children(pid, "etl-actor"))

    def counting(self, rows: int) -> tuple[float, float]:
        """Rows per second until they are durable, and the largest RssAnon of an actor, MB."""
        self._stack.snowflake.set(counting=True)
        self._fill(rows)
        before, rss = self._durable(), 0.0
        with self._supervisor(FILL_MS_BULK) as pid:
            _wait("the first rows", lambda: self._durable() > before, STARTING_SECONDS_MAX)
            first, started = self._durable(), time.monotonic()
            while (now := self._durable()) < before + rows:
                rss = max([rss, *(_rss_anon_mb(child) for child in _children(pid, "etl-actor"))])
                assert time.monotonic() < started + WAIT_SECONDS_MAX, f"{now - before} of {rows} rows came"
                time.sleep(POLL_SECONDS)
            seconds = time.monotonic() - started
        self._check(before + rows)
        return (before + rows - first) / seconds, rss

    def storing(self, rows: int) -> float:
        """Rows per second until the target has them."""
        self._stack.snowflake.set(counting=False)
        before = self._durable()
        self._fill(rows)
        with self._supervisor(FILL_MS_BULK), self._session() as session:
            _wait("the first rows", lambda: self._durable() > before, STARTING_SECONDS_MAX)
            first, started = self._durable(), time.monotonic()
            _wait("the landing table", lambda: self._durable() >= before + rows)
            query = f'SELECT COUNT(*) FROM "{SNOWFLAKE_DATABASE}"."PUBLIC"."T"'
            _wait("the target", lambda: session.cursor().execute(query).fetchone()[0] >= rows)
            seconds = time.monotonic() - started
        return (before + rows - first) / seconds

    def latency(self, seconds: float) -> dict[str, float]:
        """Quantiles in milliseconds."""
        self._stack.snowflake.set(counting=True)
        with self._supervisor(FILL_MS_QUICK):
            durable, rows = self._durable(), self._rows
            self._write(WARM_SECONDS)
            _wait("the first rows", lambda: self._durable() - durable == self._rows - rows, STARTING_SECONDS_MAX)
            time.sleep(APPLY_SECONDS)
            before = self._histograms()
            self._write(seconds)
            _wait("the last rows", lambda: self._durable() - durable == self._rows - rows)
            time.sleep(APPLY_SECONDS)  # the actor has heard of it
            after = self._histograms()
        accepted, durable = (
            {edge: after[name][edge] - before[name].get(edge, 0.0) for edge in after[name]}
            for name in ("etl_accepted_seconds", "etl_durable_seconds")
        )
        return {
            "accepted_p50_ms": round(quantile(accepted, 0.5) * 1000, 1),
            "accepted_p99_ms": round(quantile(accepted, 0.99) * 1000, 1),
            "durable_p99_ms": round(quantile(durable, 0.99) * 1000, 1),
        }

    # -- inside

    def _fill(self, rows: int) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for at in range(self._rows + 1, self._rows + rows + 1, STEP_ROWS):
                connection.execute(ROWS, (at, min(at + STEP_ROWS - 1, self._rows + rows)))
        self._rows += rows

    def _write(self, seconds: float) -> None:
        """Transactions at an even pace; one that is late does not delay the plan."""
        pause = CHANGES_PER_TRANSACTION / CHANGES_PER_SECOND
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            started = time.monotonic()
            for number in range(int(seconds / pause)):
                connection.execute(ROWS, (self._rows + 1, self._rows + CHANGES_PER_TRANSACTION))
                self._rows += CHANGES_PER_TRANSACTION
                time.sleep(max(0.0, started + (number + 1) * pause - time.monotonic()))

    def _durable(self) -> int:
        """Rows that the channels of our table have committed."""
        channels = self._stack.snowflake.state()["channels"]
        return sum(channel["rows_inserted"] for channel in channels.values())

    def _check(self, rows: int) -> None:
        assert self._durable() == rows, f"{self._durable()} rows were counted, {rows} were written"
        assert not (found := self._stack.snowflake.state()["violations"]), found[0]

    @contextlib.contextmanager
    def _supervisor(self, fill_ms: int) -> Iterator[int]:
        """A supervisor as a process of its own; it drains at the end. Its pid."""
        with psycopg.connect(self._settings.config_dsn()) as connection:
            changes = {"batch_max_fill_ms": fill_ms, "batch_max_size": BATCH_ROWS}
            upsert(connection, self._settings.keyring(), "pipelines", **self._pipeline(connection), **changes)
        with (self._directory / "supervisor.log").open("ab") as log:
            command = [sys.executable, "-m", "etl_supervisor.cli.main", "run"]
            process = subprocess.Popen(command, env=self._environment, cwd=self._directory, stdout=log, stderr=log)
            try:
                yield process.pid
                process.send_signal(signal.SIGTERM)
                process.wait(WAIT_SECONDS_MAX)
            except AssertionError:
                for name in ("supervisor.log", "stack/snowflake.log"):
                    print(name, (self._directory / name).read_text()[-LOG_CHARACTERS:], sep="\n", file=sys.stderr)
                raise
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _pipeline(self, connection: psycopg.Connection[Any]) -> dict[str, Any]:
        row = connection.execute("SELECT name, source_id, destination_id FROM app.pipelines").fetchone()
        assert row is not None
        return dict(zip(("name", "source_id", "destination_id"), row, strict=True))

    def _ready(self) -> bool:
        store = open_store(self._settings)
        try:
            states = store.tables(SOURCE, f"{SOURCE}-to-snowflake")
        finally:
            store.close()
        return bool(states) and all(state.phase is Phase.READY for state in states.values())

    @contextlib.contextmanager
    def _session(self) -> Iterator[Any]:
        from etl_supervisor.repository.desired import load as load_desired
        from workers.snowflake.connection import connect

        destination = load_desired(self._settings).specs[0].pipelines[0].destination
        session = connect(destination, self._settings.keyring().decrypt, self._directory, purpose="bench")
        try:
            yield session
        finally:
            session.close()

    def _histograms(self) -> dict[str, dict[float, float]]:
        """Name -> upper edge -> count at or below it, of all histograms."""
        with urllib.request.urlopen(f"http://{self._metrics_address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, dict[float, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    edges = found.setdefault(family.name, {})
                    edge = float(sample.labels["le"])
                    edges[edge] = edges.get(edge, 0.0) + sample.value
        return found


def quantile(counts: dict[float, float], part: float) -> float:
    """The value below which `part` of the observations lie, between the edges of its bucket in proportion."""
    wanted, below, low = part * max(counts.values()), 0.0, 0.0
    for edge in sorted(counts):
        if counts[edge] >= wanted:
            inside = counts[edge] - below
            return low if edge == float("inf") else low + (edge - low) * (wanted - below) / inside
        below, low = counts[edge], edge
    return low


def _children(pid: int, name: str) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().startswith(name):
                found.append(int(child))
    return found


def _rss_anon_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def _wait(what: str, done: Callable[[], bool], seconds: float = WAIT_SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(POLL_SECONDS)


def measure(works: list[str], scale: float, rounds: int) -> dict[str, Any]:
    """All works that are asked for."""
    results: dict[str, Any] = {}
    if "ndjson" in works:
        results |= ndjson(rounds)
        print(results, flush=True)
    if not set(works) - {"ndjson"}:
        return results
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # the server's account has to pass
        with EmbeddedStack(Path(folder) / "stack") as stack:
            bench = Bench(stack, Path(folder), f"127.0.0.1:{choose_port()}")
            results["idle_actors_rss_mb"] = round(bench.idle(), 1)  # also makes slot and tables
            if "counting" in works:
                rate, rss = bench.counting(int(1_000_000 * scale))
                results |= {"e2e_counting_rows_per_s": round(rate), "actor_rss_mb": round(rss, 1)}
            if "latency" in works:
                results |= bench.latency(LATENCY_SECONDS * scale)
            if "storing" in works:
                results["e2e_storing_rows_per_s"] = round(bench.storing(int(400_000 * scale)))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default="ndjson,counting,storing,latency")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of rows and seconds, for a quick look")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    results = measure(given.works.split(","), given.scale, given.rounds)
    for name, value in results.items():
        print(f"{name:28} {value:>12,}")
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "scale": given.scale}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({**results, **machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
