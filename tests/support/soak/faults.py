"""How each fault begins and ends: a generator that begins it, yields the seconds that it lasts, and ends it when it is continued.

One that finds nobody to hit (no copy runs, say) raises `Missed`; it is not counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator

from tests.support.soak.plan import Fault
from tests.support.soak.world import World


class Missed(Exception):
    """There is nobody whom this fault could hit now."""


Striking = Generator[float, None, None]
STRIKES: dict[str, Callable[[World, Fault], Striking]] = {}


def strike(world: World, fault: Fault) -> Striking:
    """Begin a fault with the first `next`, end it with the second."""
    return STRIKES[fault.kind](world, fault)


def victim(world: World, fault: Fault) -> int:
    """The process that is hit."""
    supervisor = world.deployment.supervisor
    assert supervisor is not None
    if fault.target == "supervisor":
        return supervisor.pid
    there = sorted(
        pid for name, pid in world.deployment.children().items() if name.startswith(f"etl-{fault.target}")
    )
    if not there:
        raise Missed
    return there[int(fault.choice * len(there))]


def kill(world: World, fault: Fault) -> Striking:
    """SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim(world, fault), signal.SIGKILL)
    if fault.target == "supervisor":
        assert world.deployment.supervisor is not None
        world.deployment.supervisor.wait()
    yield 0.0
    world.revive()


STRIKES["kill"] = kill
