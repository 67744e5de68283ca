"""When copies that were asked for begin: those that are asked for one after the other share a worker."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.pipeline import Pipeline, PipelineStatus, Source, SourceSpec
from etl_supervisor.supervision import copying
from tests.unit.test_follower import DESTINATION

SPEC = SourceSpec(
    Source(1, "shop", "h", 1, "d", "u", None, "disable", None, "p", 1),
    (Pipeline(1, "p", 1, DESTINATION, PipelineStatus.START, 1, 1, 1, 1, 2),),
)


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(copying, "time", SimpleNamespace(monotonic=lambda: self.now))


def wanted(number: int) -> CopyWanted:
    return CopyWanted("shop", 1, "public", f"t{number}", 1, 1)


def test_tables_that_are_asked_for_one_after_the_other_share_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waiting = Clock(monkeypatch), copying.Copying()
    for number in range(4):
        waiting.ask(wanted(number))
        clock.now += copying.GATHER_SECONDS * 0.9
        assert waiting.take({"shop": SPEC}, []) == ()
    clock.now += copying.GATHER_SECONDS * 0.2
    assert waiting.take({"shop": SPEC}, []) == (tuple(wanted(number) for number in range(4)),)
    assert waiting.due_at() == float("inf")


def test_no_table_waits_for_ever_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waiting = Clock(monkeypatch), copying.Copying()
    began, number = clock.now, 0
    while not (started := waiting.take({"shop": SPEC}, [])):
        waiting.ask(wanted(number))
        clock.now, number = clock.now + copying.GATHER_SECONDS / 2, number + 1
    assert clock.now - began <= copying.GATHER_SECONDS_MAX + copying.GATHER_SECONDS / 2
    assert len(started[0]) == number
