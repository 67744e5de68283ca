"""Nothing is confirmed that is not durable, nothing is landed twice, nothing is lost, and no target is moved out of order, whatever dies when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.protocol_machine import Protocol
from tests.support.protocol_model import BEGINNING, Pipe, Snowflake, Store
from workers.reader.frontier import Frontier
from workers.reader.retired import Retired
from workers.snowflake.channel import Channel, ChannelStatus, Underway

EXAMPLES = settings(max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
FIRST = settings(EXAMPLES, max_examples=5000, phases=[Phase.generate], database=None)  # not the smallest one


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def test_nothing_is_lost_or_doubled_whatever_dies_when() -> None:
    run_state_machine_as_test(Protocol, settings=EXAMPLES)


class Hasty(Frontier):
    """Takes what was decoded for durable."""

    @property
    def durable(self) -> int:
        return self.decoded


class Blind(Frontier):
    """Has tables applied before their rows are durable."""

    def fence(self, handle: int) -> int:
        return self.decoded


class Joint(Frontier):
    """One table's fence is that of all."""

    def fence(self, handle: int) -> int:
        return self.durable


class Unpinned(Frontier):
    """Lets a held table's rows go."""

    def hold(self, handle: int) -> None:
        Frontier.forget(self, handle)


class Receding(Frontier):
    """Goes back to where it began when a table is held."""

    def hold(self, handle: int) -> None:
        super().hold(handle)
        self._pins[handle] = BEGINNING


class Careless(Retired):
    """Forgets rows under way of a table that goes on."""

    def add(self, handle: int, whose: tuple[int, int], *, keep: bool) -> None:
        super().add(handle, whose, keep=False)


class Forgetful(Channel):
    """Does not ask what an earlier life left behind."""

    def opened(self, status: ChannelStatus, known: int) -> None:
        super().opened(status, status.errors)


class Trusting(Channel):
    """Never looks for refused rows."""

    def suspicious(self, items: list[Underway], errors: int) -> bool:
        return False


class Unfiltered(Channel):
    """Sends again what Snowflake has."""

    @property
    def reached(self) -> str:
        return self.appended or ""


class Obliging(Store):
    """Writes what an older reader says."""

    def refuses(self, epoch: int) -> bool:
        return False


class Shared(Snowflake):
    """A channel takes rows of every owner that it has had."""

    def takes(self, owner: int, pipe: Pipe) -> bool:
        return True


class Unfenced(Snowflake):
    """A block is carried out wherever the target is."""

    def condition(self, update: str) -> str:
        return re.sub(r" AND APPLIED = \d+", "", update)


class Ageless(Snowflake):
    """A block is carried out whoever has the pipeline."""

    def condition(self, update: str) -> str:
        return re.sub(r" AND EPOCH <= \d+", "", update)


@pytest.mark.parametrize(
    "hole",
    [
        {"frontier": Hasty},
        {"channel": Forgetful},
        {"channel": Trusting},
        {"channel": Unfiltered},
        {"confirms_first": True},
        {"frontier": Receding},
        {"frontier": Unpinned},
        {"retired": Careless},
        {"frontier": Joint},
        {"frontier": Blind},
        {"store": Obliging},
        {"newer": staticmethod(lambda ours, stored, source: ours)},
        {"snowflake": Shared},
        {"snowflake": Unfenced},
        {"snowflake": Ageless},
        {"take_over": staticmethod(lambda *_: None)},
    ],
    ids=[
        "confirmed before it is durable",
        "an earlier life's refusals",
        "refused rows",
        "rows that were committed",
        "confirmed before it is saved",
        "a position that falls",
        "the pin of a held table",
        "rows of a table that is held by policy",
        "a table that holds the others",
        "applied before it is durable",
        "an older reader's save",
        "an older reader's last word",
        "the owner of a channel",
        "the fence of an apply",
        "the epoch of an apply",
        "a pipeline that is not taken over",
    ],
)
def test_a_protocol_with_a_hole_is_caught(hole: dict[str, Any]) -> None:
    broken = type("Broken", (Protocol,), hole)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(broken, settings=FIRST)
