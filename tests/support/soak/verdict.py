"""What has to be true at the end: every target equals its source, no position is landed twice, nothing is left over, nobody of ours has crashed."""

from __future__ import annotations

import contextlib
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psycopg

from etl_supervisor.cli.compare import Difference
from etl_supervisor.exits import Exit
from etl_supervisor.ipc.scratch import FILES, METRICS, remove_unused
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.soak.world import SOAK_VARIABLE, SOURCES, World

CRASH = '"event":"child_crashed"'
KILLS_SUPERVISOR = "failpoint supervisor."
CALM_SECONDS_MAX = 240.0  # for what has piled up, and for copies of tables that were changed last
WALSENDERS_END_SECONDS = 10.0  # from a reader's end until PostgreSQL has noticed
KEYS = """
select c.relname::text, array_agg(a.attname::text order by a.attnum) from pg_class c join pg_index i on i.indrelid = c.oid and i.indisprimary
join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey) where c.relnamespace = 'public'::regnamespace group by 1 order by 1
"""


@dataclass
class Verdict:
    """The lists are lines for people; all are empty where all is well. `crashes` are children and supervisors that ended by a fault of ours, `absent`
    is what the workload should have contained."""

    tables: int = 0
    rows: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, nothing left, nobody crashed, and the workload was one."""
        lines = self.differences + self.leftovers + self.crashes + self.absent
        return not (self.rows_lost or self.rows_doubled or lines)


def keys_of(database: Database) -> dict[str, tuple[str, ...]]:
    """Every table of a source with the columns of its key."""
    return {table: tuple(columns) for table, columns in database.execute(KEYS)}


def judge(world: World, faults: Counter[str]) -> Verdict:
    """Wait until everything has arrived, compare, drain, and look for what is left. `faults` counts what was done, by its name."""
    verdict, deployment = Verdict(), world.deployment
    for name in SOURCES:
        keys = keys_of(deployment.pipelines[name])
        calm(world, name, set(keys))
        for found in settled(world, name, keys):
            verdict.tables += 1
            verdict.rows += found.source_rows
            verdict.rows_lost += found.missing + found.unequal
            verdict.rows_doubled += found.doubled + found.landed_twice + found.extra
            if found.total:
                verdict.differences.append(f"{name}: {found}")
    code = deployment.stop(CALM_SECONDS_MAX)
    if code != 0:
        verdict.leftovers.append(f"the drain ended with exit code {code}")
    verdict.leftovers += left_over(world)
    verdict.crashes = crashed(deployment.log) + ended(world.ends, faults)
    return verdict


def crashed(log: str) -> list[str]:
    """A line for each child that ended by an exception that nobody named."""
    events = [orjson.loads(line) for line in log.splitlines() if CRASH in line]
    return [f"{event['process']} crashed: {event['exception'].strip().splitlines()[-1]}" for event in events]


def ended(codes: Counter[int], faults: Counter[str]) -> list[str]:
    """A line for each exit code with which more supervisors ended than we made end so: killed, stopped until its monitor killed it, told to end,
    told so twice."""
    killed = faults["kill supervisor"] + faults["stop supervisor"]
    killed += sum(n for name, n in faults.items() if name.startswith(KILLS_SUPERVISOR))
    told = faults["restart supervisor"]
    ours = {int(Exit.OK): told, -signal.SIGKILL: killed, int(Exit.FAILED): told // 2}
    more = {code: count - ours.get(code, 0) for code, count in sorted(codes.items())}
    return [
        f"{count} supervisors ended with {code}, which nobody asked for" for code, count in more.items() if count > 0
    ]


def calm(world: World, name: str, tables: set[str]) -> None:
    """Wait until a pipeline has every table of its source READY, and every row of it confirmed."""
    deployment = world.deployment

    def ready() -> bool:
        world.revive()
        states = deployment.states(name)
        return all(table in states and states[table].phase.name == "READY" for table in tables)

    wait_for(f"the tables of {name} to be ready", ready, CALM_SECONDS_MAX)
    end = deployment.written(name)
    wait_for(f"{name} to be confirmed", lambda: deployment.confirmed(name) >= end, CALM_SECONDS_MAX)


def settled(world: World, name: str, keys: dict[str, tuple[str, ...]]) -> list[Difference]:
    """Compare until nothing differs: everything is durable, the last applies may be under way. What differs for too long, differs."""
    found: dict[str, Difference] = {}

    def same() -> bool:
        for table, key in keys.items():
            if table not in found or found[table].total:
                (found[table],) = world.deployment.differences(name, **{table: key})
        return not any(one.total for one in found.values())

    with contextlib.suppress(AssertionError):
        wait_for(f"the targets of {name}", same, CALM_SECONDS_MAX)
    return list(found.values())


def left_over(world: World) -> list[str]:
    """Processes, files, slots and rows that nobody will ever ask for again."""
    found = [f"process {pid}: {command}" for pid, command in _processes(str(world.folder))]
    found += [f"file {path.name}" for path in Path("/dev/shm").iterdir() if "etl" in path.name]
    for kind in (METRICS, FILES):
        remove_unused(kind, 0.0, world.scratch)  # as the next one of its kind does
    found += [f"file {path.name} in the temporary directory" for path in world.scratch.iterdir()]
    slots = "select slot_name, database, active, temporary from pg_replication_slots"
    busy = f"{slots} where active or temporary"
    with psycopg.connect(world.postgres.dsn(), autocommit=True) as connection:
        with contextlib.suppress(AssertionError):  # a walsender notices a moment later that its reader has gone
            wait_for("walsenders to end", lambda: not connection.execute(busy).fetchall(), WALSENDERS_END_SECONDS)
        kept = list(connection.execute(slots))
    found += [f"slot {name} of {database} is in use" for name, database, active, _ in kept if active]
    found += [f"slot {name} of {database} is temporary" for name, database, _, temporary in kept if temporary]
    for source in SOURCES:
        names = [name for name, database, _, _ in kept if database == source]
        found += [f"slot {name} of {source} is one too many" for name in names[1:]]
    pending = {name: channel["pending"] for name, channel in world.snowflake.state()["channels"].items()}
    return found + [f"channel {name} holds rows" for name, rows in pending.items() if rows]


def _processes(mark: str) -> list[tuple[int, str]]:
    """Processes that were started with our mark in their environment and still run."""
    wanted = f"{SOAK_VARIABLE}={mark}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if not re.fullmatch(r"\d+", path.name):
            continue
        try:
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append((int(path.name), (path / "comm").read_text().strip()))
        except OSError:  # it has ended meanwhile, or is not ours
            continue
    return found
