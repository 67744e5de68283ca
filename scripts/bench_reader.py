"""How fast the reader is, as a ratio to `pg_recvlogical` writing to /dev/null, in one run.

For each work a table is filled once and its WAL is read again and again: a slot made before the work is copied for every measurement, so that both
sides read the same bytes. Floor and reader take turns; the ratio is of medians. The reader is measured as it runs in production up to shared memory:
stream -> batcher -> decoder -> Arrow IPC in a slab. Actors are left out: they are another process's work.

    make bench-reader ARGS="--rounds 5 --works 10col,3col"

Figures go to .local/results/bench-reader.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import conninfo

from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Source
from scripts.bench_tables import scaling

RESULTS = Path(".local/results/bench-reader.json")
SPOOL_BYTES = 32 << 20  # the default of SPOOL_MEMORY_MB
SLAB_BYTES = 64 << 20  # a quarter of the default budget: what is beyond is only waiting
BATCH_ROWS = 10_000  # batch_max_size of the pipelines that are measured
ROUNDS = 5
GOALS = {"10col": 0.90, "3col": 0.75, "mixed": 0.75, "100col": 0.85}  # of the floor's rows per second
DSN_VARIABLE = "BENCH_DSN"  # holds a password: not for a command line
SETTINGS = {
    "fsync": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "logical_decoding_work_mem": "256MB",
    "max_replication_slots": "100",
}

TEN_COLUMNS = """CREATE TABLE t (id bigint PRIMARY KEY, n int, name text, note text, amount numeric(12,2), at timestamptz, ok bool, doc jsonb,
 uid uuid, f float8)"""
TEN_ROWS = """SELECT g, g %% 1000, 'name ' || g, 'a longer note of row number ' || g, (g %% 100000) / 7.0,
 '2024-01-01 00:00:00+00'::timestamptz + g * interval '1.000037 s',
 g %% 3 = 0, jsonb_build_object('k', g, 'tags', jsonb_build_array('a', 'b')), gen_random_uuid(), g / 3.0 FROM generate_series(%s, %s) g"""
WIDE = [  # type, and the value of row g
    ("int", "g"),
    ("bigint", "g * 1000"),
    ("text", "'text ' || g"),
    ("float8", "g / 3.0"),
    ("timestamptz", "'2024-01-01'::timestamptz + g * interval '1 s'"),
    ("bool", "g % 2 = 0"),
    ("uuid", "md5(g::text)::uuid"),
    ("numeric(10,2)", "g / 7.0"),
    ("date", "'2024-01-01'::date + g % 1000"),
    ("varchar(20)", "'v' || g"),
]


@dataclass(frozen=True)
class Work:
    """A workload: what makes it, and how many rows it changes."""

    name: str
    rows: int
    tables: list[str]
    statements: list[str]


@dataclass
class Figures:
    """Of one work: seconds of every round; of the reader by form of transfer, of whole runs and of runs that only receive."""

    floor: list[float] = field(default_factory=list)
    reader: dict[str, list[Run]] = field(default_factory=dict)
    receiver: dict[str, list[Run]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one measured process says."""

    seconds: float
    cpu_seconds: float
    walsender_cpu_seconds: float
    rss_mb: float
    rows: int
    pieces: int = 0  # of transactions that were streamed


def works(scale: float) -> list[Work]:
    """The works of the goal table; `scale` makes them smaller for a quick look."""
    million, wide = int(1_000_000 * scale), int(100_000 * scale)
    step = 50_000
    ten = [f"INSERT INTO t {TEN_ROWS % (at, min(at + step, million + 1) - 1)}" for at in range(1, million + 1, step)]
    three = [
        f"INSERT INTO t SELECT g, g % 100, 'v' || g FROM generate_series({at}, {min(at + step, million + 1) - 1}) g"
        for at in range(1, million + 1, step)
    ]
    columns = ", ".join(f"c{i} {WIDE[i % len(WIDE)][0]}" for i in range(1, 100))
    values = ", ".join(WIDE[i % len(WIDE)][1] for i in range(1, 100))
    hundred = [
        f"INSERT INTO t SELECT g, {values} FROM generate_series({at}, {min(at + 10_000, wide + 1) - 1}) g"
        for at in range(1, wide + 1, 10_000)
    ]
    twenty = [
        f"CREATE TABLE m{i} (id bigint PRIMARY KEY, a int, b text, at timestamptz, amount numeric(12,2))"
        for i in range(20)
    ]
    return [
        Work("10col", million, [TEN_COLUMNS], ten),
        Work("3col", million, ["CREATE TABLE t (id bigint PRIMARY KEY, a int, b text)"], three),
        Work("mixed", int(500_000 * scale), twenty, [MIXED.format(transactions=int(50_000 * scale))]),
        Work("100col", wide, [f"CREATE TABLE t (id bigint PRIMARY KEY, {columns})"], hundred),
    ]


# 60/30/10 inserts, updates and deletes over 20 tables, in transactions of 10 changes.
MIXED = """
DO $$
DECLARE tx int; i int; r int; tab int; top bigint[] := array_fill(0::bigint, ARRAY[20]); low bigint[] := array_fill(0::bigint, ARRAY[20]);
BEGIN
    FOR tx IN 1..{transactions} LOOP
        FOR i IN 0..9 LOOP
            tab := (tx * 7 + i * 3) % 20;
            r := (tx * 13 + i * 17) % 10;
            IF r < 6 OR top[tab + 1] - low[tab + 1] < 3 THEN
                top[tab + 1] := top[tab + 1] + 1;
                EXECUTE format('INSERT INTO m%s VALUES ($1, $2, $3, now(), $4)', tab)
                    USING top[tab + 1], tx, 'row of transaction ' || tx, tx / 7.0;
            ELSIF r < 9 THEN
                EXECUTE format('UPDATE m%s SET a = $2, b = $3 WHERE id = $1', tab)
                    USING top[tab + 1] - tx % (top[tab + 1] - low[tab + 1]), tx, 'changed by ' || tx;
            ELSE
                low[tab + 1] := low[tab + 1] + 1;
                EXECUTE format('DELETE FROM m%s WHERE id = $1', tab) USING low[tab + 1];
            END IF;
        END LOOP;
        COMMIT;
    END LOOP;
END $$
"""


# -- one measurement, in a process of its own


def measure(dsn: str, slot: str, end: int, transfer: str, decode: bool) -> Run:
    """Read `slot` to `end` as the reader does; with `decode` false the frames are dropped as they come."""
    from workers.reader.assembler import Assembler  # children only: the parent measures, it does not compute
    from workers.reader.stream import ReplicationStream

    stream = ReplicationStream(_source(dsn), str(conninfo.conninfo_to_dict(dsn)["password"]))
    assembler = Assembler(SPOOL_BYTES, 20 << 30, None, "bench")
    take = _pipeline(dsn, assembler) if decode else lambda chunk, _: len(chunk)
    walsender = stream.backend_pid
    cpu_before, started = time.process_time(), time.monotonic()
    stream.start(slot, 0, ["p"], binary=transfer == "binary", streaming=True)
    rows, rss, turns, ended = 0, 0.0, 0, False
    while not ended:
        chunk = stream.read()
        if chunk is None:
            stream.wait(0.01)
            continue
        last = int(chunk.start[-1])
        ended = int.from_bytes(chunk.data[last + 1 : last + 9], "big") > end
        rows += take(chunk, ended)
        turns += 1
        if turns % 64 == 0:
            rss = max(rss, _rss_anon_mb())
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu_before
    return Run(seconds, cpu, _cpu_of(walsender), max(rss, _rss_anon_mb()), rows, assembler.pieces)


def _pipeline(dsn: str, assembler: Any) -> Any:
    from etl_supervisor.ipc.arrow import ipc_size
    from etl_supervisor.ipc.segment import SlabWriter
    from workers.reader.batcher import Batcher
    from workers.reader.catalog import read_catalog
    from workers.reader.pgoutput import Decoder
    from workers.reader.relations import Relations

    catalog = psycopg.connect(dsn, autocommit=True)
    decoder = Decoder(Relations(lambda oid: read_catalog(catalog, oid)))
    batcher, slab = Batcher(BATCH_ROWS, 16 << 20, 0.1), SlabWriter(SLAB_BYTES)
    kept: deque[Any] = deque()

    def seal() -> int:
        decoded = decoder.decode(batcher.seal())
        for segment in decoded.segments:
            size = ipc_size(segment.batch)
            while (written := slab.write(segment.batch, size)) is None:
                slab.release(kept.popleft())  # the oldest is durable by now
            kept.append(written[0])
        return decoded.rows

    def take(chunk: Any, ended: bool) -> int:
        rows, now = 0, time.monotonic()
        for part in assembler.take(chunk):
            rest = part
            while rest is not None:
                rest = batcher.take(rest, now)
                if batcher.full:
                    rows += seal()
        return rows + (seal() if ended else 0)

    return take


def _source(dsn: str) -> Source:
    parts = conninfo.conninfo_to_dict(dsn)
    host, port, name, user = (str(parts[key]) for key in ("host", "port", "dbname", "user"))
    return Source(1, "bench", host, int(port), name, user, None, "disable", None, "p", 1)


def _rss_anon_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the comparison


class Bench:
    """One server, one work after the other."""

    def __init__(self, server: EmbeddedPostgres, rounds: int) -> None:
        self._server, self._rounds, self._slots = server, rounds, 0

    def run(self, work: Work, transfers: list[str]) -> Figures:
        """Floor and reader in turns."""
        dsn = self._server.create_database("bench_" + work.name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            end = _fill(connection, work)
            figures = Figures()
            for _ in range(self._rounds):
                with self._slot(connection, work) as slot:
                    figures.floor.append(self._floor(dsn, slot, end))
                for transfer in transfers:
                    for decode, runs in ((False, figures.receiver), (True, figures.reader)):
                        with self._slot(connection, work) as slot:
                            found = self._measured(dsn, slot, end, transfer, decode=decode)
                        assert not decode or found.rows >= work.rows, (work.name, found.rows, work.rows)
                        runs.setdefault(transfer, []).append(found)
            connection.execute("SELECT pg_drop_replication_slot(%s)", ["base_" + work.name])
        return figures

    @contextlib.contextmanager
    def _slot(self, connection: psycopg.Connection[Any], work: Work) -> Iterator[str]:
        self._slots += 1
        name = f"run_{self._slots}"
        connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", ["base_" + work.name, name])
        yield name
        deadline = time.monotonic() + 10
        while connection.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [name]).fetchone() != (
            False,
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])

    def _floor(self, dsn: str, slot: str, end: int) -> float:
        options = ["-o", "proto_version=1", "-o", "publication_names=p", "-f", "/dev/null", "--no-loop", "--start"]
        parts = conninfo.conninfo_to_dict(dsn)
        password = str(parts.pop("password"))
        bare = conninfo.make_conninfo("", **parts)
        command = [
            str(self._server.bindir / "pg_recvlogical"),
            "-d",
            bare,
            "-S",
            slot,
            f"--endpos={lsn.text(end)}",
            *options,
        ]
        started = time.monotonic()
        subprocess.run(command, check=True, env={**os.environ, "PGPASSWORD": password})
        return time.monotonic() - started

    def _measured(self, dsn: str, slot: str, end: int, transfer: str, *, decode: bool) -> Run:
        command = [
            sys.executable,
            "-m",
            "scripts.bench_reader",
            "--measure",
            slot,
            str(end),
            transfer,
            str(int(decode)),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, DSN_VARIABLE: dsn})
        return Run(**orjson.loads(done.stdout))


def _fill(connection: psycopg.Connection[Any], work: Work) -> int:
    for statement in work.tables:
        connection.execute(statement.encode())
    connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
    connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", ["base_" + work.name])
    for statement in work.statements:
        connection.execute(statement.encode())
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    connection.execute("CREATE TABLE marker (id int PRIMARY KEY)")  # its rows tell both sides that the end has come
    connection.execute("INSERT INTO marker VALUES (1), (2)")
    assert row is not None
    return lsn.parse(row[0])


def _summary(work: Work, figures: Figures, transfer: str) -> dict[str, float]:
    floor = statistics.median(figures.floor)
    reader, receiver = (
        statistics.median(run.seconds for run in runs[transfer]) for runs in (figures.reader, figures.receiver)
    )
    runs, millions = figures.reader[transfer], work.rows / 1_000_000
    cpu, walsender = (
        statistics.median(found) for found in ([r.cpu_seconds for r in runs], [r.walsender_cpu_seconds for r in runs])
    )
    rss = max(run.rss_mb for run in runs)
    print(
        f"{work.name:7} {transfer:7} floor {work.rows / floor:>8,.0f} rows/s  receive {work.rows / receiver:>8,.0f}"
        f"  reader {work.rows / reader:>8,.0f}  ratio {floor / reader:.2f} (goal {GOALS[work.name]})"
        f"  CPU s/M rows: reader {cpu / millions:.2f} walsender {walsender / millions:.2f}"
        f"  RssAnon {rss:.0f} MB",
        flush=True,
    )
    return {
        "ratio": round(floor / reader, 3),
        "floor_rows_per_s": round(work.rows / floor),
        "receive_rows_per_s": round(work.rows / receiver),
        "reader_rows_per_s": round(work.rows / reader),
        "cpu_ratio": round(cpu / walsender, 3),
        "rss_mb": round(rss, 1),
    }


def main() -> None:
    """Measure and print; one line per work."""
    if sys.argv[1:2] == ["--measure"]:
        dsn, (slot, end, transfer, decode) = os.environ[DSN_VARIABLE], sys.argv[2:]
        sys.stdout.buffer.write(orjson.dumps(asdict(measure(dsn, slot, int(end), transfer, decode == "1"))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--works", default=",".join(GOALS))
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the rows, for a quick look")
    parser.add_argument("--transfer", default="text,binary")
    given = parser.parse_args()
    results: dict[str, Any] = {"rounds": given.rounds, "scale": given.scale}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)  # the server's account has to pass
        with EmbeddedPostgres(Path(folder) / "postgres", settings=SETTINGS) as server:
            results |= {"postgres": server.version, "python": platform.python_version(), "cores": os.cpu_count()}
            bench = Bench(server, given.rounds)
            for work in works(given.scale):
                if work.name in given.works.split(","):
                    transfers = given.transfer.split(",")
                    figures = bench.run(work, transfers)
                    results[work.name] = {transfer: _summary(work, figures, transfer) for transfer in transfers}
    results["tables"] = {"in_turn": scaling(), "spread": scaling(spread=True)}
    for name, found in results["tables"].items():
        print(
            f"decoder, tables {name}: " + "  ".join(f"{tables}: {value}" for tables, value in found.items()),
            "(us of CPU per row)",
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(_headline(results) | results, option=orjson.OPT_INDENT_2))


def _headline(results: dict[str, Any]) -> dict[str, float]:
    """The figures that are watched: of the form in which the reader reads such tables by itself, binary."""
    found = {name: results[name]["binary"] for name in GOALS if "binary" in results.get(name, {})}
    headline = {f"ratio_{name}": figures["ratio"] for name, figures in found.items()}
    if "10col" in found:
        headline["cpu_ratio_10col"] = found["10col"]["cpu_ratio"]
    if found:
        headline["rss_mb"] = max(figures["rss_mb"] for figures in found.values())
    return headline | {"table_scaling": results["tables"]["in_turn"]["ratio"]}


if __name__ == "__main__":
    main()
