"""Which fault comes next: a function of the seed, whatever the machine does meanwhile.

Faults come in bursts of one to three that overlap. A burst says what its faults are, how long they last, and a number between 0 and 1 with which
`faults` chooses among those who are there: which process has a name at that moment depends on the run, the decision does not.
Each start of the supervisor has a few failpoints armed; which, and at which visit they fire, depends on the seed and the number of the start. Only
those are chosen that the soak comes by; the tests of the others stand in `ELSEWHERE`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from etl_supervisor.failpoints import NAMES

EDGES = ("source", "config", "store", "snowflake")
CHILDREN = ("reader", "actor", "monitor", "copy", "nursery")
BURST_SIZES, BURST_WEIGHTS = (1, 2, 3), (5, 3, 2)
SECONDS = (0.3, 1.0, 2.5, 5.0)
STOP_SECONDS = (0.3, 1.0, 2.5, 5.0, 22.0)  # the last is longer than a heartbeat may be silent
FAILPOINTS_ARMED, VISIT_MAX = 4, 25
VISITS_MAX = {"copy": 2, "supervisor": 5}  # visits are counted by each process; these come by seldom
ELSEWHERE = {  # no pipeline is parked, deleted or given another key here, and no row is refused
    "parking.after_slot_copy": "tests/pipeline/test_parking.py",
    "parking.after_join": "tests/pipeline/test_parking.py",
    "parking.after_leave": "tests/pipeline/test_parked_histories.py",
    "removal.after_tables": "tests/pipeline/test_deleted_pipelines.py",
    "removal.after_slots": "tests/pipeline/test_deleted_pipelines.py",
    "poison.encode": "tests/chaos/test_poison.py",
    "poison.upload": "tests/chaos/test_poison.py",
    "dead_letter.before_write": "tests/chaos/test_dead_letter.py",
    "dead_letter.after_write": "tests/chaos/test_dead_letter.py",
    "rotation.before_commit": "tests/postgres/test_secret_rotation.py",
}

KINDS: dict[str, tuple[int, tuple[str, ...]]] = {  # kind: weight, whom
    "kill": (9, (*CHILDREN, "reader", "actor", "supervisor")),
    "stop": (7, (*CHILDREN, "supervisor")),
    "crash": (3, ("postgres", "valkey", "snowflake")),
    "restart": (3, ("postgres", "valkey", "snowflake", "supervisor")),
    "cut": (6, EDGES),
    "hold": (5, EDGES),
    "slow": (4, EDGES),
    "refuse": (4, EDGES),
    "answer": (8, ("429", "503", "late", "lost", "dropped", "channel")),
    "end": (3, ("walsender", "sessions")),
    "full": (2, ("spill", "memory")),
    "flush": (2, ("valkey",)),
    "clock": (3, ("ahead", "behind")),
}


@dataclass(frozen=True)
class Fault:
    """What is done to whom; `choice` in [0, 1), `seconds` how long where it has a length."""

    kind: str
    target: str
    choice: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


def bursts(seed: int) -> Iterator[list[Fault]]:
    """Without end."""
    chance = random.Random(f"{seed}/faults")
    kinds, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
    while True:
        size = chance.choices(BURST_SIZES, BURST_WEIGHTS)[0]
        yield [
            Fault(kind, chance.choice(KINDS[kind][1]), chance.random(), chance.choice(lasts(kind)))
            for kind in chance.choices(kinds, weights, k=size)
        ]


def lasts(kind: str) -> tuple[float, ...]:
    """How long a fault of this kind may be."""
    return STOP_SECONDS if kind == "stop" else SECONDS


def failpoints(seed: int, start: int) -> str:
    """For ETL_FAILPOINTS of the supervisor's `start`th start."""
    chance = random.Random(f"{seed}/failpoints/{start}")
    names = chance.sample(sorted(NAMES.keys() - ELSEWHERE.keys()), FAILPOINTS_ARMED)
    most = {name: VISITS_MAX.get(name.partition(".")[0], VISIT_MAX) for name in names}
    return ",".join(f"{name}=kill@{chance.randint(1, most[name])}" for name in names)
