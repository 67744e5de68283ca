"""The soak itself: bursts of faults one after the other, and how long each recovery takes.

A burst begins; its faults end one by one; then a marker row is committed in every source, and we wait until each target shows it. That time is
the recovery of every fault of the burst. Where a breaker had opened, its cool-down is by design, and the recovery is listed apart. A marker that
does not come within MARKER_SECONDS_MAX is a hang: the soak has failed, and what the log said stays.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from snowflake.connector.errors import Error

from tests.support.fix_deployment import POLL_SECONDS
from tests.support.fix_local_snowflake import sql_session
from tests.support.soak.faults import Missed, Striking, strike
from tests.support.soak.plan import Fault, bursts
from tests.support.soak.verdict import Verdict, judge
from tests.support.soak.workload import Workload
from tests.support.soak.world import SOURCES, World
from workers.snowflake.failure import SnowflakeError

MARKER_SECONDS_MAX = 150.0
BETWEEN_SECONDS = 0.5  # rows flow before the next burst
BREAKER = '"event":"breaker_opened"'


class Hangs(Exception):
    """A marker did not arrive."""


@dataclass
class Soak:
    """What has happened so far. `say` gets a line for each burst."""

    world: World
    say: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)  # seconds, one for each fault
    cooled: list[float] = field(default_factory=list)  # the same where a breaker had opened
    missed: int = 0
    marker: int = 0
    workloads: list[Workload] = field(default_factory=list)

    def run(self, minutes: float) -> Verdict:
        """Strike for so long, then judge."""
        world = self.world
        world.start_supervisor()
        self._recover()
        self.workloads = [Workload(world.deployment.pipelines[name], world.seed) for name in SOURCES]
        for workload in self.workloads:
            workload.start()
        end = time.monotonic() + minutes * 60
        try:
            for number, burst in enumerate(bursts(world.seed), 1):
                if time.monotonic() > end:
                    break
                self._burst(number, burst)
        finally:
            for workload in self.workloads:
                workload.stop()
        return judge(world)

    def report(self, minutes: float, verdict: Verdict) -> dict[str, Any]:
        """For `.local/results/soak.json`."""
        every = sorted(self.recoveries)
        return {
            "seed": self.world.seed,
            "minutes": minutes,
            "faults": self.faults.total(),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "rows_lost": verdict.rows_lost,
            "rows_doubled": verdict.rows_doubled,
            "recovery_p50_s": round(statistics.median(every), 2) if every else None,
            "recovery_p95_s": round(every[int(0.95 * (len(every) - 1))], 2) if every else None,
            "recovery_max_s": round(every[-1], 2) if every else None,
            "recoveries_after_cool_down_s": [round(seconds, 1) for seconds in sorted(self.cooled)],
            "tables": verdict.tables,
            "rows": verdict.rows,
            "transactions": sum(workload.done.total() for workload in self.workloads),
            "differences": verdict.differences,
            "leftovers": verdict.leftovers,
        }

    def _burst(self, number: int, burst: list[Fault]) -> None:
        world = self.world
        logged = len(world.deployment.log)
        begun = self._begin(burst)
        if not begun:
            return
        for until, striking, _ in sorted(begun, key=lambda item: item[0]):
            while time.monotonic() < until:
                world.revive()
                time.sleep(POLL_SECONDS)
            next(striking, None)
        seconds = self._recover()
        cooled = BREAKER in world.deployment.log[logged:]
        (self.cooled if cooled else self.recoveries).extend([seconds] * len(begun))
        names = ", ".join(str(fault) for _, _, fault in begun)
        self.say(f"{number}: {names}: {seconds:.1f} s{', a breaker was open' if cooled else ''}")
        time.sleep(BETWEEN_SECONDS)

    def _begin(self, burst: list[Fault]) -> list[tuple[float, Striking, Fault]]:
        begun = []
        for fault in burst:
            striking = strike(self.world, fault)
            try:
                seconds = next(striking)
            except Missed:
                self.missed += 1
                continue
            begun.append((time.monotonic() + seconds, striking, fault))
            self.faults[str(fault)] += 1
        return begun

    def _recover(self) -> float:
        """Write a marker and wait for it: seconds."""
        self.marker += 1
        started = time.monotonic()
        for name in SOURCES:
            self._mark(name, started)
        left = set(SOURCES)
        while left:
            self.world.revive()
            left -= {name for name in left if self._shows(name)}
            if time.monotonic() > started + MARKER_SECONDS_MAX:
                raise Hangs(f"marker {self.marker} of {', '.join(sorted(left))} did not come")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def _mark(self, name: str, started: float) -> None:
        statement = f"insert into markers values ({self.marker}) on conflict do nothing"
        while True:
            try:
                self.world.deployment.pipelines[name].execute(statement)
            except psycopg.OperationalError:
                if time.monotonic() > started + MARKER_SECONDS_MAX:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def _shows(self, name: str) -> bool:
        """Whether the target has the marker. Each question has a session of its own: the server may have been started again."""
        there = self.world.direct(name)
        question = f'SELECT COUNT(*) FROM "{there.database}"."{there.schema}"."MARKERS" WHERE N = {self.marker}'
        try:
            with sql_session(there) as session, session.cursor() as cursor:
                return bool(cursor.execute(question).fetchone()[0])
        except (Error, SnowflakeError):  # no such table yet, or the server is just being started
            return False
