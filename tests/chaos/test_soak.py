"""The soak in short: rows and tables change under a seeded stream of faults, and afterwards nothing is lost, doubled or left over."""

from __future__ import annotations

import itertools

import pytest

from etl_supervisor.failpoints import NAMES
from tests.support.soak.faults import STRIKES
from tests.support.soak.plan import KINDS, bursts, failpoints
from tests.support.soak.run import Soak
from tests.support.soak.world import fresh_world

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
