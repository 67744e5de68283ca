"""Which fault comes next: a function of the seed, whatever the machine does meanwhile.

Faults come in bursts of one to three that overlap. A burst says when each of its faults begins and how long it lasts; whom it hits is a word of the
table below, and a number between 0 and 1 with which `faults` chooses among those who are there (which process has this name now depends on the run).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

EDGES = ("source", "config", "store", "snowflake")
SERVERS = ("postgres", "valkey", "snowflake")
BURST_SIZES, BURST_WEIGHTS = (1, 2, 3), (5, 3, 2)
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {  # kind: weight, whom
    "kill": (10, ("reader", "actor", "monitor", "copy", "supervisor")),
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
        burst = []
        for kind in chance.choices(kinds, weights, k=size):
            seconds = round(chance.choice([0.3, 1.0, 2.5, 7.0]), 1)
            burst.append(Fault(kind, chance.choice(KINDS[kind][1]), chance.random(), seconds))
        yield burst
