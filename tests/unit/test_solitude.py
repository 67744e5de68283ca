"""Rows on trial are alone in their actor, and not for ever. Real desks, no thread, no network."""

import pytest

from etl_supervisor.ipc.messages import Segment
from workers.snowflake.channel import Channel, Underway
from workers.snowflake.solitude import ALONE_SECONDS_MAX, Solitude


class Table:
    """What solitude looks at of a desk: its books are real."""

    def __init__(self, *, trial: bool = False) -> None:
        self.life, self.sdk_busy, self.channel = 1, False, Channel()
        self.segment = Segment(1, 1, 0, 1, 10, 1, "a", "b", 1, trial=trial)
        self.channel.waiting.append((self.segment, None))

    @property
    def under_way(self) -> bool:
        return bool(self.channel.undurable)

    def send(self) -> None:
        self.channel.took("b")

    def arrive(self) -> None:
        self.channel.settled([self.channel.undurable[0]])


@pytest.fixture
def now() -> list[float]:
    return [100.0]


def solitude(now: list[float], *desks: Table) -> Solitude:
    return Solitude(lambda: desks, lambda: now[0])


def test_without_a_trial_everybody_sends(now) -> None:
    one, two = Table(), Table()
    it = solitude(now, one, two)
    assert it.allows(one)
    one.send()
    assert it.allows(two)


def test_a_trial_waits_for_the_others_and_the_others_for_it(now) -> None:
    tried, other, third = Table(trial=True), Table(), Table()
    it = solitude(now, tried, other, third)
    other.send()
    assert not it.allows(tried), "rows of another are on their way"
    assert not it.allows(third), "it has claimed the actor"
    other.arrive()
    assert it.allows(tried)
    tried.send()
    assert not it.allows(third)
    tried.arrive()
    assert it.allows(third)


def test_a_trial_that_is_over_by_the_death_of_its_table_frees_the_actor(now) -> None:
    tried, other = Table(trial=True), Table()
    it = solitude(now, tried, other)
    assert it.allows(tried)
    tried.life += 1
    tried.channel.waiting.clear()
    assert it.allows(other)


def test_a_destination_that_does_not_answer_holds_the_others_for_a_while_only(now) -> None:
    tried, other = Table(trial=True), Table()
    it = solitude(now, tried, other)
    assert it.allows(tried)
    tried.send()
    assert isinstance(tried.channel.undurable[0], Underway)
    assert not it.allows(other)
    now[0] += ALONE_SECONDS_MAX
    assert it.allows(other)
