"""The soak in short: rows and tables change under a seeded stream of faults, and afterwards nothing is lost, doubled or left over."""

from __future__ import annotations

import itertools

import pytest

from etl_supervisor.failpoints import NAMES
from tests.support.fix_deployment import wait_for
from tests.support.soak import faults
from tests.support.soak.faults import STRIKES, NobodyError, strike
from tests.support.soak.markers import Markers
from tests.support.soak.plan import KINDS, Fault, bursts, failpoints
from tests.support.soak.run import Soak
from tests.support.soak.verdict import judge
from tests.support.soak.world import World, fresh_world

SEED = 20261121
MINUTES = 1.5
FAULTS_MIN = 5  # in a minute and a half, on a machine that is busy with other tests


def test_every_fault_that_can_be_planned_can_be_struck() -> None:
    assert set(KINDS) == set(STRIKES)


def test_a_seed_decides_faults_and_failpoints() -> None:
    def first(seed: int) -> list[str]:
        return [str(fault) for burst in itertools.islice(bursts(seed), 300) for fault in burst]

    assert list(itertools.islice(bursts(7), 50)) == list(itertools.islice(bursts(7), 50))
    assert first(7) != first(8)
    assert set(first(7)) == {f"{kind} {whom}" for kind, (_, all_) in KINDS.items() for whom in all_}
    armed = {item.partition("=")[0] for start in range(100) for item in failpoints(7, start).split(",")}
    assert armed == set(NAMES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_doubled_or_left_over_whatever_fails() -> None:
    with fresh_world(SEED) as world:
        soak = Soak(world, print)
        verdict = soak.run(MINUTES)
        report = soak.report(MINUTES, verdict)
        assert verdict.good, f"make soak MINUTES={MINUTES} SEED={SEED}: {report}\n{world.deployment.log[-3000:]}"
    assert report["faults"] >= FAULTS_MIN, report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_room_is_really_short_where_a_fault_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_world(SEED) as world:
        world.start_supervisor(armed=False)
        markers = Markers(world)
        arrived(markers)
        for target, choice in (
            ("memory", 0.9),
            ("spill", 0.1),
        ):  # of depot, of shop; more in a row would open a breaker
            striking = strike(world, Fault("full", target, choice, 0.3))
            next(striking)
            next(striking, None)
            arrived(markers)
        assert refusals(world) == {"source shop"}
        monkeypatch.setattr(faults, "REACH_SECONDS_MAX", 3.0)
        world.proxies["source"].refusing = True
        for target in faults.TIGHT:
            with pytest.raises(NobodyError):
                next(strike(world, Fault("full", target, 0.1, 0.3)))
        world.heal()
        arrived(markers)
        markers.close()
        verdict = judge(world)
        assert verdict.good, verdict


def arrived(markers: Markers) -> None:
    """A marker that is written now, in both targets."""
    marker = markers.write()
    wait_for("a marker", lambda: marker in markers.look(), 120)


def refusals(world: World) -> set[str]:
    """Sources whose reader had no room for a transaction in progress."""
    return {line["place"] for line in world.deployment.events("child_failed") if line["kind"] == "spool"}
