"""The soak itself: bursts of faults one after the other, and how long each recovery takes.

A burst begins; its faults end one by one; then a marker row is committed in every source. The time until each target shows it is the recovery of
every fault of the burst. A failpoint that kills meanwhile is one more fault of the burst, and another marker is written after it. How long a marker
takes when nothing has happened is measured before the first burst (`usual_s`). The next burst begins when the
marker has arrived, or after PATIENCE_SECONDS: then it meets a system that is still recovering, and both recoveries take longer. (Half a minute lets a
breaker's cool-down pass.) Where a breaker had opened, its cool-down is by design, and the recovery is listed apart. A marker that does not come at
all is a hang: the soak has failed. So it has when the workload did not contain what it is there for (in a run that is long enough for all of it).
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
from tests.support.soak.workload import ACTS, Workload
from tests.support.soak.world import SOURCES, World

PATIENCE_SECONDS = 60.0
REST_SECONDS = 10.0  # a marker that is later than that: the workload waits until it has come
USUAL_MARKERS = 5
BETWEEN_SECONDS = 0.5  # rows flow before the next burst
LOOK_SECONDS = 0.2  # what is measured is that much too long at most; each look takes 10 ms of the local Snowflake
BREAKER = '"event":"breaker_opened"'
WHOLE_MINUTES = 10.0  # each of the workload's acts is a matter of seconds to minutes
RECOVERY_SECONDS_GOAL, FAULTS_GOAL, GOAL_MINUTES = 5.0, 200, 15.0


@dataclass
class Burst:
    """One that is recovering. `logged` is where the log was when it began, `fired` are the failpoints that have killed meanwhile."""

    number: int
    faults: tuple[Fault, ...]
    marker: Marker
    logged: int
    fired: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recovery:
    """How long a burst's marker took; `cooled`: a breaker had opened. Seconds count for each of its faults."""

    faults: tuple[str, ...]
    seconds: float
    cooled: bool


@dataclass
class Soak:
    """What has happened so far. `say` gets a line for each recovery."""

    world: World
    say: Callable[[str], None]
    struck: Counter[str] = field(default_factory=Counter)
    recoveries: list[Recovery] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)  # seconds of a marker without any fault
    missed: int = 0
    fired: Counter[str] = field(default_factory=Counter)  # failpoints that have killed
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
        verdict = judge(world, self.faults)
        if minutes >= WHOLE_MINUTES:
            verdict.absent = [f"the workload did not contain: {act}" for act in ACTS if not self.acts[act]]
        return verdict

    @property
    def faults(self) -> Counter[str]:
        """Kind and target -> how many; failpoints that fired among them."""
        return self.struck + self.world.landed()

    @property
    def acts(self) -> Counter[str]:
        """What the workload contained."""
        return sum((workload.acts for workload in self.workloads), Counter())

    def report(self, minutes: float, verdict: Verdict) -> dict[str, Any]:
        """For `.local/results/soak.json`."""
        every, cooled = self._seconds(cooled=False), self._seconds(cooled=True)
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
            "recoveries_after_cool_down": len(cooled),
            "recovery_after_cool_down_p95_s": _quantile(cooled, 0.95),
            "goals_missed": self.goals_missed(minutes),
            "tables": verdict.tables,
            "rows": verdict.rows,
            "transactions": sum(workload.done.total() for workload in self.workloads),
            "workload": {act: self.acts[act] for act in ACTS},
            "supervisors_ended": {str(code): count for code, count in sorted(self.world.ends.items())},
            "differences": verdict.differences,
            "leftovers": verdict.leftovers,
            "crashes": verdict.crashes,
            "absent": verdict.absent,
            "recoveries": [
                {"faults": list(one.faults), "seconds": round(one.seconds, 2), "cooled": one.cooled}
                for one in self.recoveries
            ],
        }

    def goals_missed(self, minutes: float) -> list[str]:
        """Lines about what is to be better; the soak has not failed."""
        seconds, count = _quantile(self._seconds(cooled=False), 0.95), self.faults.total()
        missed = []
        if seconds is not None and seconds > RECOVERY_SECONDS_GOAL:
            missed.append(f"95 % of the recoveries took up to {seconds:g} s; the goal is {RECOVERY_SECONDS_GOAL:g} s")
        if minutes >= GOAL_MINUTES and count < FAULTS_GOAL:
            missed.append(f"{count} faults in {minutes:g} minutes; the goal is {FAULTS_GOAL}")
        return missed

    def _seconds(self, *, cooled: bool) -> list[float]:
        """Of each fault, in order of length."""
        return sorted(one.seconds for one in self.recoveries if one.cooled == cooled for _ in one.faults)

    def _measure_usual(self) -> None:
        """While rows change, and before anything is done to anybody."""
        for _ in range(USUAL_MARKERS):
            marker = self.markers.write()
            self._look_until(lambda marker=marker: marker not in self.markers.waiting)  # type: ignore[misc]
            self.usual.append(time.monotonic() - marker.written)

    def _burst(self, number: int, burst: list[Fault]) -> None:
        self._patiently(lambda: not self.recovering)  # a failpoint has killed since the last one
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
        self._patiently(lambda: burst_of not in self.recovering)
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

    def _patiently(self, done: Callable[[], bool]) -> None:
        patience = time.monotonic() + PATIENCE_SECONDS
        self._look_until(lambda: done() or time.monotonic() > patience)

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
            self._write(0, (), len(self.world.deployment.log)).fired.extend(fired)
        elif fired:
            self.recovering[-1].fired.extend(fired)
            marker = self.markers.write()
            for burst in self.recovering:
                burst.marker = marker

    def _fired(self) -> list[str]:
        """The failpoints that have killed since the last call."""
        before, self.fired = self.fired, self.world.landed()
        return list((self.fired - before).elements())

    def _recovered(self, burst: Burst) -> None:
        seconds = time.monotonic() - burst.marker.written
        self.recovering.remove(burst)
        cooled = BREAKER in self.world.deployment.log[burst.logged :]
        faults = (*(str(fault) for fault in burst.faults), *burst.fired)
        if faults:
            self.recoveries.append(Recovery(faults, seconds, cooled))
        self.say(f"{burst.number}: {_names(burst)}: {seconds:.1f} s{', a breaker was open' if cooled else ''}")


def _names(burst: Burst) -> str:
    return ", ".join([*(f"{fault} ({fault.seconds:g} s)" for fault in burst.faults), *burst.fired]) or "start"


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[int(share * (len(ordered) - 1))], 2) if ordered else None
