"""Does anything grow? Half an hour of changes, kills and questions; what each process holds at the end against what it held at the beginning.

    make leak                        30 minutes; figures go to .local/results/leak.json
    make leak ARGS="--minutes 5"

Two sources change at a steady pace while their rows stay as many as they were; both pipelines go through two actors. Every 30 seconds the second
actor and the second source's reader are killed, so that the supervisor, the monitor, the first actor and the first reader live through many
deaths of others; metrics and API are asked at each look. Looked at, of every process that lives long enough: anonymous and shared memory,
descriptors, threads. Of the machine: files in /dev/shm (but for PostgreSQL's own), keys in Redis, replication slots.

The first third of the time is warm-up (Arrow's and Python's pools fill); then the second and the last third are compared. `course` has the medians of
the sixths of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.stack import EmbeddedStack
from etl_supervisor.model.table_state import Phase
from etl_supervisor.state.choose import open_store

RESULTS = Path(".local/results/leak.json")
SOURCES = ("one", "two")
TABLES = 4
ROWS = 2_000
PAUSE_SECONDS = 0.02  # between two transactions of a source
LOOK_SECONDS = 5.0
KILL_SECONDS = 30.0
KILLED = ("etl-actor-1", "etl-reader-two")
START_SECONDS_MAX = 120.0
GROWTH_MB_MAX, GROWTH_PART_MAX = 4.0, 0.05  # of a process, from the middle third to the last: the larger one counts
GROWTH_FILES_MAX = 2  # descriptors or threads: a connection that is just being made


@dataclass
class Series:
    """What one thing held, look by look."""

    values: list[float] = field(default_factory=list)

    def course(self) -> list[float]:
        """Medians of the sixths of the time."""
        count = len(self.values)
        return [round(statistics.median(self.values[count * k // 6 : count * (k + 1) // 6]), 1) for k in range(6)]


class Books:
    """All series: per process, and of the machine."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.names: dict[int, str] = {}

    def note(self, name: str, value: float) -> None:
        """One more value."""
        self.series.setdefault(name, Series()).values.append(value)

    def look(self, supervisor: int) -> None:
        """The supervisor and its children."""
        for pid in (supervisor, *children(supervisor)):
            with contextlib.suppress(OSError):
                comm = Path(f"/proc/{pid}/comm").read_text().strip()
                name = f"{comm}/{pid}"
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                self.note(f"{name} memory_mb", int(status["RssAnon"].split()[0]) / 1024)
                self.note(f"{name} shared_mb", int(status["RssShmem"].split()[0]) / 1024)
                self.note(f"{name} threads", int(status["Threads"]))
                self.note(f"{name} descriptors", len(os.listdir(f"/proc/{pid}/fd")))

    def report(self, looks: int) -> dict[str, dict[str, object]]:
        """Of everything that was seen most of the time: its course, and whether it grew too much."""
        found: dict[str, dict[str, object]] = {}
        for name, series in self.series.items():
            if len(series.values) >= max(6, looks * 0.8):
                course = series.course()
                middle, end = statistics.mean(course[2:4]), statistics.mean(course[4:])
                allowed = max(GROWTH_MB_MAX, middle * GROWTH_PART_MAX) if name.endswith("_mb") else GROWTH_FILES_MAX
                found[name] = {"course": course, "grew": end - middle > allowed}
        return found


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(supervisor: int, name: str) -> bool:
    """SIGKILL a child by its name."""
    for pid in children(supervisor):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def change(name: str, dsn: str, stop: threading.Event) -> None:
    """Updates, and an insert for each delete."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        number = 0
        while not stop.wait(PAUSE_SECONDS):
            number += 1
            table, row = f"{name}_{number % TABLES}", number * 7 % ROWS
            connection.execute(
                f"with gone as (delete from {table} where id = (select min(id) from {table}))"
                f" insert into {table} select max(id) + 1, 0, 'new' from {table}"
            )
            connection.execute(
                f"update {table} set n = n + 1, note = repeat('x', %s) where id %% %s = %s", [row % 50, ROWS, row]
            )


@contextlib.contextmanager
def workload(dsns: dict[str, str]) -> Iterator[None]:
    """Changes in all sources until the end."""
    stop = threading.Event()
    workers = [threading.Thread(target=change, args=(name, dsn, stop)) for name, dsn in dsns.items()]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def source(stack: EmbeddedStack, settings: Settings, name: str) -> str:
    """A database with its tables, as a source with a pipeline; its connection string."""
    dsn = stack.postgres.create_database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in range(TABLES):
            connection.execute(f"create table {name}_{table} (id int primary key, n int, note text)")
            connection.execute(f"insert into {name}_{table} select g, 0, 'n' from generate_series(1, {ROWS}) g")
        connection.execute("create publication p for all tables")
    stack.configure(settings, source=name, database=name, publication="p", apply_seconds=2.0)
    return dsn


def ready(settings: Settings) -> bool:
    """Whether all tables are."""
    with contextlib.closing(open_store(settings)) as store:
        states = [state for name in SOURCES for state in store.tables(name, f"{name}-to-snowflake").values()]
    return len(states) == TABLES * len(SOURCES) and all(state.phase is Phase.READY for state in states)


def watch(stack: EmbeddedStack, pid: int, asked: list[str], minutes: float) -> tuple[Books, int, int]:
    """The books, with the number of looks and of kills that landed."""
    assert stack.valkey is not None
    books, looks, kills = Books(), 0, 0
    began = time.monotonic()
    next_kill = began + KILL_SECONDS
    with redis.Redis.from_url(stack.valkey.url) as store, psycopg.connect(stack.postgres.dsn("one")) as connection:
        connection.autocommit = True
        while time.monotonic() < began + minutes * 60:
            time.sleep(LOOK_SECONDS)
            for url in asked:
                with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                    answer.read()
            looks += 1
            books.look(pid)
            books.note("/dev/shm files", sum(not name.startswith("PostgreSQL") for name in os.listdir("/dev/shm")))
            books.note("redis keys", store.dbsize())  # type: ignore[arg-type]
            (slots,) = connection.execute("select count(*) from pg_replication_slots").fetchone() or (0,)
            books.note("replication slots", slots)
            if time.monotonic() >= next_kill:
                next_kill += KILL_SECONDS
                kills += sum(kill(pid, name) for name in KILLED)
    return books, looks, kills


def ends(log: Path) -> dict[str, int]:
    """How often each child has ended, and how: "actor-1 -9" is a kill."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if told["event"] == "child_ended":
                found[f"{told['child']} {told['code']}"] += 1
    return dict(found)


def main() -> int:
    """Exit code 1 when something grew."""
    parser = argparse.ArgumentParser(description="Look for leaks.")
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="etl-leak-") as folder, EmbeddedStack(Path(folder)) as stack:
        metrics, api = f"127.0.0.1:{choose_port()}", f"127.0.0.1:{choose_port()}"
        environment = {
            "PATH": os.environ["PATH"],
            **stack.environment(),
            "PIPELINE_POLL_INTERVAL_SECS": "1",
            "SNOWFLAKE_ACTOR_POOL_SIZE": "2",
            "METRICS_ADDR": metrics,
            "API_ADDR": api,
            "API_AUTH": "disabled",
        }
        settings = load(Path(folder), environment)
        dsns = {name: source(stack, settings, name) for name in SOURCES}
        with (Path(folder) / "supervisor.log").open("wb") as log:
            command = [sys.executable, "-m", "etl_supervisor.cli.main", "run"]
            env = {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not ready(settings):
                if process.poll() is not None or time.monotonic() > deadline:
                    print((Path(folder) / "supervisor.log").read_text()[-3000:])
                    return 1
                time.sleep(0.5)
            asked = [f"http://{metrics}/metrics", f"http://{api}/api/v1/pipelines", f"http://{api}/ready"]
            with workload(dsns):
                books, looks, kills = watch(stack, process.pid, asked, minutes)
        finally:
            process.terminate()
            code = process.wait(60)
            ended = ends(Path(folder) / "supervisor.log")
    found = books.report(looks)
    report = {"minutes": minutes, "kills": kills, "exit_code": code, "ended": ended, "held": found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return int(any(item["grew"] for item in found.values()) or code != 0 or not found)


if __name__ == "__main__":
    sys.exit(main())
