"""How fast first copies are: read, stored, of a thousand tables, and what a crash costs.

    read      a table of ten columns as a copy worker reads it (snapshot, lanes, Arrow IPC in a slab), against `psql -c "\\copy (…) to
    /dev/null"`; in turns
    stored    the same table through a whole deployment into the local Snowflake, until every row is durable in the landing table
    tables    empty tables until all of them are READY, from the moment their source is configured
    resume    the copy worker killed at 25, 50 and 75 %: how many rows more than the table has were read

    make bench-copy ARGS="--rows 500000 --tables 100 --parts read,stored"

Figures go to .local/results/bench-copy.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import conninfo

from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.embedded.stack import EmbeddedStack
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase
from etl_supervisor.state.choose import open_store
from scripts.bench_reader import SETTINGS, TEN_COLUMNS, TEN_ROWS

RESULTS = Path(".local/results/bench-copy.json")
GOALS = {
    "read_ratio_psql": ">= 0.7",
    "worker_rss_mb": "<= 300",
    "stored_rows_per_s": ">= 150000",
    "ready_1000_tables_s": "<= 60",
    "resume_overhead_pct": "<= 15",
}
PARTS = ("read", "stored", "tables", "resume")
ROWS = 5_000_000
TABLES = 1_000
ROUNDS = 3
KILLS_AT = (0.25, 0.50, 0.75)
ROWS_PER_INSERT = 250_000
SLAB_BYTES = 16 << 20  # what a copy worker has for such a table
PAGES_PER_RANGE, CONNECTIONS = 1024, 2  # the defaults
SECONDS_MAX = 1800.0
POLL_SECONDS = 0.05
POLL_TABLES_SECONDS = 1.0  # reading the states of a thousand tables takes a while
SETTLE_SECONDS, IDLE_SECONDS = 10.0, 20.0
TABLE = TableName("public", "t")
DSN_VARIABLE = "BENCH_DSN"  # holds a password: not for a command line


def fill(dsn: str, rows: int) -> None:
    """The table of ten columns."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TEN_COLUMNS.encode())
        for first in range(1, rows + 1, ROWS_PER_INSERT):
            last = min(first + ROWS_PER_INSERT - 1, rows)
            connection.execute(f"INSERT INTO t {TEN_ROWS % (first, last)}".encode())
        connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
        connection.execute("VACUUM ANALYZE t")


# -- reading alone, in a process of its own


@dataclass(frozen=True)
class Reading:
    """What one measured process says; `rss_mb` is its largest resident size, shared memory included."""

    seconds: float
    cpu_seconds: float
    rss_mb: float
    rows: int


def measure(dsn: str) -> Reading:
    """Read the table as a copy worker does; what it would hand over is written to a slab and let go."""
    from etl_supervisor.ipc.arrow import ipc_size  # children only: the parent measures, it does not compute
    from etl_supervisor.ipc.segment import Run, SlabWriter
    from workers.reader.csv import Converted, placed
    from workers.reader.heartbeat import Access
    from workers.reader.lane import Lanes, Task
    from workers.reader.ranges import plan
    from workers.reader.snapshot import Snapshot

    slab, kept = SlabWriter(SLAB_BYTES), deque[Run]()
    access = Access(_source(dsn), str(conninfo.conninfo_to_dict(dsn)["password"]), None, "")
    cpu, started, rows, left = time.process_time(), time.monotonic(), 0, 0
    with contextlib.closing(Snapshot(access, f"bench_{os.getpid()}", lambda: None)) as snapshot:
        found = snapshot.find(TABLE, "bench")
        assert found is not None
        tasks = [Task(1, found, item) for item in plan(found.leaves, (), PAGES_PER_RANGE)]
        lanes = Lanes([snapshot.first, *(snapshot.connection() for _ in range(CONNECTIONS - 1))], tasks)
        left = len(tasks)
        while left:
            piece = lanes.take()
            if piece is None:
                time.sleep(0.001)
            elif isinstance(piece.rows, Converted):
                batch = placed(found.table, piece.rows, 1, 1)
                while (written := slab.write(batch, ipc_size(batch))) is None:
                    slab.release(kept.popleft())  # the oldest is durable by now
                kept.append(written[0])
                rows += batch.num_rows
            else:
                assert piece.rows is None, piece.rows
                left -= 1
        lanes.close()
    return Reading(time.monotonic() - started, time.process_time() - cpu, _rss_mb("self"), rows)


def read_part(rows: int, rounds: int) -> dict[str, float]:
    """psql and the copy's reading in turns; the ratio is of medians."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # the server's account has to pass
        with EmbeddedPostgres(Path(folder) / "postgres", settings=SETTINGS) as server:
            dsn = server.create_database("bench_read")
            fill(dsn, rows)
            floor, ours = [], []
            for _ in range(rounds):
                started = time.monotonic()
                command = [str(server.psql_path), "-X", "-d", server.url("bench_read")]
                copy = "\\copy (SELECT * FROM t) TO /dev/null"
                subprocess.run([*command, "-c", copy], check=True, stdout=subprocess.DEVNULL)
                floor.append(time.monotonic() - started)
                command = [sys.executable, "-m", "scripts.bench_copy", "--measure"]
                environment = {**os.environ, DSN_VARIABLE: dsn}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
                ours.append(Reading(**orjson.loads(done.stdout)))
                assert ours[-1].rows == rows
    seconds, psql = statistics.median(item.seconds for item in ours), statistics.median(floor)
    return {
        "read_ratio_psql": round(psql / seconds, 3),
        "read_rows_per_s": round(rows / seconds),
        "psql_rows_per_s": round(rows / psql),
        "read_cpu_s": round(statistics.median(item.cpu_seconds for item in ours), 2),
        "read_rss_mb": round(max(item.rss_mb for item in ours), 1),
    }


# -- a whole deployment


class Deployment:
    """Embedded parts, a supervisor, and one source."""

    def __init__(
        self, stack: EmbeddedStack, settings: Settings, supervisor: subprocess.Popen[bytes], port: int
    ) -> None:
        self._stack, self._settings, self._supervisor, self._port = stack, settings, supervisor, port

    def database(self, name: str) -> str:
        """A new database of this name; its connection string."""
        return self._stack.postgres.create_database(name)

    def start(self, name: str, path: str = "streaming") -> None:
        """Bring that database to Snowflake; `path` is the load path of first copies."""
        self._stack.configure(
            self._settings, source=name, database=name, publication="p", apply_seconds=5.0, copy_load_path=path
        )

    def cpu_seconds(self) -> dict[tuple[str, int], float]:
        """What has been used so far by (name, pid): the local Snowflake, the supervisor's children, PostgreSQL's processes."""
        used = {}
        postgres = self._stack.postgres.pid
        for name, parent in (("", self._supervisor.pid), ("postgres", postgres), ("snowflake", 0)):
            for pid in _children(parent) if parent else [self._stack.snowflake.pid]:
                with contextlib.suppress(OSError):
                    comm = Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("etl-").partition("-")[0]
                    used[name or comm, pid] = _cpu_seconds(pid)
        return used

    def memory_mb(self) -> str:
        """What each of them holds now, of its own."""
        found: dict[str, list[float]] = {}
        for name, pid in sorted(self.cpu_seconds()):
            if name not in ("postgres", ""):
                found.setdefault(name, []).append(_anonymous_mb(pid))
        return ", ".join(f"{name} {' + '.join(f'{size:.0f}' for size in sizes)}" for name, sizes in found.items())

    def copy(self, name: str) -> CopyState | None:
        """How far the copy of table t is."""
        with contextlib.closing(open_store(self._settings)) as store:
            return store.copy(name, f"{name}-to-snowflake", TABLE)

    def ready(self, name: str) -> int:
        """How many tables are READY."""
        with contextlib.closing(open_store(self._settings)) as store:
            states = store.tables(name, f"{name}-to-snowflake").values()
            return sum(state.phase is Phase.READY for state in states)

    def worker(self) -> int | None:
        """The pid of the copy worker that runs."""
        for pid in _children(self._supervisor.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("etl-copy"):
                    return pid
        return None

    def rows_read(self, name: str) -> int:
        """Rows that copies of this source have handed over, in all their workers' lives."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(rf'^etl_copy_rows_total{{pipeline="{name}-to-snowflake".*}} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, found)))

    def wait(self, what: str, done: Callable[[], Any], poll_seconds: float = POLL_SECONDS) -> Any:
        """Until it is true."""
        deadline = time.monotonic() + SECONDS_MAX
        while not (found := done()):
            assert self._supervisor.poll() is None, "the supervisor ended"
            assert time.monotonic() < deadline, f"waited {SECONDS_MAX:.0f} s for {what}"
            time.sleep(poll_seconds)
        return found


@contextlib.contextmanager
def deployment() -> Iterator[Deployment]:
    """All of it, in a directory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        directory, port = Path(folder) / "bench", choose_port()
        with EmbeddedStack(directory) as stack:
            environment = {
                **os.environ,
                **stack.environment(),
                "PIPELINE_POLL_INTERVAL_SECS": "1",
                "METRICS_ADDR": f"127.0.0.1:{port}",
            }
            with (directory / "supervisor.log").open("wb") as log:
                command = [sys.executable, "-m", "etl_supervisor.cli.main", "run"]
                supervisor = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                try:
                    yield Deployment(stack, load(Path.cwd(), environment), supervisor, port)
                finally:
                    supervisor.kill()
                    supervisor.wait()


def stored_part(there: Deployment, rows: int, path: str) -> dict[str, float]:
    """From the worker's first look at the table until its last row is durable."""
    fill(there.database("stored"), rows)
    before = there.cpu_seconds()
    there.start("stored", path)
    rss, used = 0.0, before

    def complete() -> CopyState | None:
        nonlocal rss, used
        used = used | there.cpu_seconds()  # whoever has ended keeps what was seen last
        if (pid := there.worker()) is not None:
            with contextlib.suppress(OSError):
                rss = max(rss, _rss_mb(str(pid)))
        found = there.copy("stored")
        return found if found is not None and found.copy_lsn else None

    copy = there.wait("the copy", complete)
    assert copy.rows == rows, copy.rows
    told = ", ".join(f"{name} {seconds / rows * 1e6:.1f}" for name, seconds in sorted(_spent(used, before).items()))
    print(f"microseconds of CPU per row: {told}", flush=True)
    return {"stored_rows_per_s": round(copy.rows_per_second), "worker_rss_mb": round(rss, 1)}


def tables_part(there: Deployment, tables: int) -> dict[str, float]:
    """Empty tables until the last one is READY; then what it costs to have them while nothing happens."""
    with psycopg.connect(there.database("tables"), autocommit=True) as connection:
        for number in range(tables):
            connection.execute(f"CREATE TABLE t{number} (id bigint PRIMARY KEY, a int, b text)".encode())
        connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
    used = before = there.cpu_seconds()
    started = time.monotonic()
    there.start("tables")

    def ready() -> bool:
        nonlocal used
        used = used | there.cpu_seconds()  # whoever has ended keeps what was seen last
        return there.ready("tables") >= tables

    there.wait("the tables", ready, POLL_TABLES_SECONDS)
    seconds, used = time.monotonic() - started, used | there.cpu_seconds()
    spent = _spent(used, before)
    told = ", ".join(f"{name} {each / tables * 1e3:.1f}" for name, each in sorted(spent.items()))
    print(f"milliseconds of CPU per table: {told}, all {sum(spent.values()) / tables * 1e3:.1f}", flush=True)
    time.sleep(SETTLE_SECONDS)  # states are kept in Snowflake, channels closed, sessions put back
    idle = there.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    spent = _spent(there.cpu_seconds(), idle)
    told = ", ".join(f"{name} {each / IDLE_SECONDS * 100:.1f}" for name, each in sorted(spent.items()))
    print(f"% of a core, idle: {told}", flush=True)
    print(f"MB of anonymous memory: {there.memory_mb()}", flush=True)
    return {
        f"ready_{tables}_tables_s": round(seconds, 1),
        f"ready_{tables}_tables_cpu_s": round(sum((_spent(used, before)).values()), 1),
        f"idle_{tables}_tables_cpu_pct": round(sum(spent.values()) / IDLE_SECONDS * 100, 1),
    }


def resume_part(there: Deployment, rows: int) -> dict[str, float]:
    """Kills on the way; rows read beyond one clean copy."""
    fill(there.database("resume"), rows)
    there.start("resume")
    for part in KILLS_AT:
        there.wait(f"{part:.0%}", lambda p=part: (found := there.copy("resume")) is not None and found.done >= p)
        os.kill(there.wait("a worker", there.worker), signal.SIGKILL)
    copy = there.wait("the copy", lambda: (found := there.copy("resume")) and found.copy_lsn and found)
    assert copy.rows == rows, copy.rows
    assert copy.began_rows, "nothing was taken over"
    return {"resume_overhead_pct": round(100 * (there.rows_read("resume") / rows - 1), 1)}


# -- the rest


def _source(dsn: str) -> Source:
    parts = conninfo.conninfo_to_dict(dsn)
    host, port, name, user = (str(parts[key]) for key in ("host", "port", "dbname", "user"))
    return Source(1, "bench", host, int(port), name, user, None, "disable", None, "p", 1)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process that runs; 0 when it does not."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _spent(used: dict[tuple[str, int], float], before: dict[tuple[str, int], float]) -> dict[str, float]:
    """Seconds of CPU by name, since `before`."""
    spent: dict[str, float] = {}
    for (name, pid), seconds in used.items():
        spent[name] = spent.get(name, 0.0) + seconds - before.get((name, pid), 0.0)
    return spent


def _anonymous_mb(pid: int) -> float:
    """What a process holds that is no file; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def _rss_mb(pid: str) -> float:
    """The largest resident size that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Measure and print; one line per part."""
    if sys.argv[1:2] == ["--measure"]:
        sys.stdout.buffer.write(orjson.dumps(asdict(measure(os.environ[DSN_VARIABLE]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tables", type=int, default=TABLES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--path", default="copy", help="the load path of the part `stored`: copy (the fastest) or streaming"
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    parts = given.parts.split(",")
    results: dict[str, Any] = {}

    def note(found: dict[str, float]) -> None:
        results.update(found)
        for name, value in found.items():
            print(f"{name:24} {value:>12,}  {GOALS.get(name, '')}", flush=True)

    if "read" in parts:
        note(read_part(given.rows, given.rounds))
    for name, run in (
        ("stored", lambda there: stored_part(there, given.rows, given.path)),
        ("tables", lambda there: tables_part(there, given.tables)),
        ("resume", lambda there: resume_part(there, given.rows)),
    ):
        if name in parts:
            with deployment() as there:
                note(run(there))
    results |= {"rows": given.rows, "tables": given.tables, "rounds": given.rounds}
    results |= {"python": platform.python_version(), "cores": os.cpu_count()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
