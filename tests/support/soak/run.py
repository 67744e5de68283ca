"""The soak itself: bursts of faults one after the other, and how long each recovery takes.

A burst begins; its faults end one by one; then a marker row is committed in every source. The time until each target shows it is the recovery of
every fault of the burst. A failpoint that kills meanwhile is one more fault of the burst, and another marker is written after it. How long a marker
takes when nothing has happened is measured before the first burst (`usual_s`). The next burst begins when the
marker has arrived, or after PATIENCE_SECONDS: then it meets a system that is still recovering, and both recoveries take longer. (Half a minute lets a
breaker's cool-down pass.) Where a breaker had opened, its cool-down is by design, and the recovery is listed apart. A marker that does not come at
all is a hang: the soak has failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.soak.faults import NobodyError, Striking, strike
from tests.support.soak.markers import Marker, Markers
from tests.support.soak.plan import Fault, bursts
from tests.support.soak.verdict import Verdict, judge
from tests.support.soak.workload import Workload
from tests.support.soak.world import SOURCES, World

PATIENCE_SECONDS = 60.0
REST_SECONDS = 10.0  # a marker that is later than that: the workload waits until it has come
USUAL_MARKERS = 5
BETWEEN_SECONDS = 0.5  # rows flow before the next burst
LOOK_SECONDS = 0.2  # what is measured is that much too long at most; each look takes 10 ms of the local Snowflake
BREAKER = '"event":"breaker_opened"'


@dataclass
class Burst:
    """One that is recovering. `logged` is where the log was when it began, `fired` how many failpoints have killed meanwhile."""

    number: int
    faults: tuple[Fault, ...]
    marker: Marker
    logged: int
    fired: int = 0


@dataclass
class Soak:
    """What has happened so far. `say` gets a line for each recovery."""

    world: World
    say: Callable[[str], None]
    struck: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)  # seconds, one for each fault
    cooled: list[float] = field(default_factory=list)  # the same where a breaker had opened
    usual: list[float] = field(default_factory=list)  # the same without any fault
    missed: int = 0
    fired: int = 0  # failpoints that have killed
    striking: bool = False  # the faults of a burst are under way: what has to be written waits
    workloads: list[Workload] = field(default_factory=list)
    recovering: list[Burst] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.markers = Markers(self.world)

    def run(self, minutes: float) -> Verdict:
        """Strike for so long, then judge."""
        world = self.world
        world.start_supervisor(armed=False)
        self._await(self._write(0, ()))
        self.workloads = [Workload(world.deployment.pipelines[name], world.seed) for name in SOURCES]
        for workload in self.workloads:
            workload.start()
        try:
            self._measure_usual()
            end = time.monotonic() + minutes * 60
            for number, burst in enumerate(bursts(world.seed), 1):
                if time.monotonic() > end:
                    break
                self._burst(number, burst)
        finally:
            for workload in self.workloads:
                workload.stop()
        world.heal()
        for burst in list(self.recovering):
            self._await(burst)
        self.markers.close()
        return judge(world)

    @property
    def faults(self) -> Counter[str]:
        """Kind and target -> how many; failpoints that fired among them."""
        return self.struck + self.world.landed()

    def report(self, minutes: float, verdict: Verdict) -> dict[str, Any]:
        """For `.local/results/soak.json`."""
        every = sorted(self.recoveries)
        return {
            "seed": self.world.seed,
            "minutes": minutes,
            "faults": self.faults.total(),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "rows_lost": verdict.rows_lost if verdict.tables else None,  # None: it did not come to a comparison
            "rows_doubled": verdict.rows_doubled if verdict.tables else None,
            "usual_s": _quantile(sorted(self.usual), 0.5),
            "recovery_p50_s": _quantile(every, 0.5),
            "recovery_p95_s": _quantile(every, 0.95),
            "recovery_max_s": _quantile(every, 1.0),
            "recoveries_after_cool_down": len(self.cooled),
            "recovery_after_cool_down_p95_s": _quantile(sorted(self.cooled), 0.95),
            "tables": verdict.tables,
            "rows": verdict.rows,
            "transactions": sum(workload.done.total() for workload in self.workloads),
            "supervisors_ended": {str(code): count for code, count in sorted(self.world.ends.items())},
            "differences": verdict.differences,
            "leftovers": verdict.leftovers,
        }

    def _measure_usual(self) -> None:
        """While rows change, and before anything is done to anybody."""
        for _ in range(USUAL_MARKERS):
            marker = self.markers.write()
            self._look_until(lambda marker=marker: marker not in self.markers.waiting)  # type: ignore[misc]
            self.usual.append(time.monotonic() - marker.written)

    def _burst(self, number: int, burst: list[Fault]) -> None:
        logged = len(self.world.deployment.log)
        self.striking = True
        begun = self._begin(burst)
        for until, striking, _ in sorted(begun, key=lambda item: item[0]):
            self._look_until(lambda at=until: time.monotonic() >= at)  # type: ignore[misc]
            next(striking, None)
        self.striking = False
        if not begun:
            return
        burst_of = self._write(number, tuple(fault for _, _, fault in begun), logged)
        patience = time.monotonic() + PATIENCE_SECONDS
        self._look_until(lambda: burst_of not in self.recovering or time.monotonic() > patience)
        if burst_of in self.recovering:
            self.say(f"{number}: {_names(burst_of)}: not yet")
        between = time.monotonic() + BETWEEN_SECONDS
        self._look_until(lambda: time.monotonic() > between)

    def _begin(self, burst: list[Fault]) -> list[tuple[float, Striking, Fault]]:
        begun = []
        for fault in burst:
            striking = strike(self.world, fault)
            try:
                seconds = next(striking)
            except NobodyError:
                self.missed += 1
                continue
            begun.append((time.monotonic() + seconds, striking, fault))
            self.struck[str(fault)] += 1
        return begun

    def _write(self, number: int, faults: tuple[Fault, ...], logged: int = 0) -> Burst:
        burst = Burst(number, faults, self.markers.write(), logged, self._fired())
        self.recovering.append(burst)
        return burst

    def _await(self, burst: Burst) -> None:
        self._look_until(lambda: burst not in self.recovering)

    def _look_until(self, done: Callable[[], bool]) -> None:
        """Start the supervisor again when it has ended, and see which markers arrive."""
        while not done():
            self.world.revive()
            if not self.striking:
                self._note_failpoints()
            arrived = self.markers.look()
            for burst in [burst for burst in self.recovering if burst.marker in arrived]:
                self._recovered(burst)
            late = any(time.monotonic() - burst.marker.written > REST_SECONDS for burst in self.recovering)
            for workload in self.workloads:
                workload.resting = late
            time.sleep(LOOK_SECONDS)

    def _note_failpoints(self) -> None:
        """Those that have killed since the last look are faults of what is recovering: that is over when a marker of now has arrived."""
        fired = self._fired()
        if fired and not self.recovering:
            self._write(0, (), len(self.world.deployment.log)).fired += fired
        elif fired:
            self.recovering[-1].fired += fired
            marker = self.markers.write()
            for burst in self.recovering:
                burst.marker = marker

    def _fired(self) -> int:
        """How many failpoints have killed since the last call."""
        before, self.fired = self.fired, self.world.landed().total()
        return self.fired - before

    def _recovered(self, burst: Burst) -> None:
        seconds = time.monotonic() - burst.marker.written
        self.recovering.remove(burst)
        cooled = BREAKER in self.world.deployment.log[burst.logged :]
        (self.cooled if cooled else self.recoveries).extend([seconds] * (len(burst.faults) + burst.fired))
        self.say(f"{burst.number}: {_names(burst)}: {seconds:.1f} s{', a breaker was open' if cooled else ''}")


def _names(burst: Burst) -> str:
    fired = [f"{burst.fired} failpoints"] if burst.fired else []
    return ", ".join([*(f"{fault} ({fault.seconds:g} s)" for fault in burst.faults), *fired]) or "start"


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[int(share * (len(ordered) - 1))], 2) if ordered else None
