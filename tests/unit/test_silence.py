"""When a supervisor counts as hanging, and when it is killed: pure, with a clock that the test holds."""

import math

import pytest

from etl_supervisor.monitor.silence import Silence

PATIENCE = 5.0  # seconds
ROUND = 1.0  # seconds


class Story:
    """The rounds of a monitor: what each has done with its parent."""

    def __init__(self) -> None:
        self.silence = Silence(PATIENCE)
        self.now = self.beat = 1000.0
        self.until = -math.inf

    def round(self, *, beats: bool = False, after: float = ROUND, takes: float = 0.0, answered: bool = True) -> str:
        """One round, `after` so many seconds; its renewal takes so long."""
        self.now += after
        if beats:
            self.beat = self.now - 0.3
        self.silence.look(self.beat, self.now)
        asked, did = self.now, "renewed"
        if self.silence.lasts:
            did = "killed" if self.silence.is_last_chance(self.now + ROUND, self.until) else "skipped"
        elif answered:
            self.until = asked + PATIENCE
        self.now += takes
        self.silence.rest(self.now)
        return did

    def until_something_else(self, than: str) -> str:
        """Rounds without a beat, as long as they do the same."""
        while (did := self.round()) == than:
            assert self.now < 9000, "for ever"
        return did


def test_a_turn_that_takes_two_seconds_is_no_silence() -> None:
    story = Story()
    assert {story.round(beats=number % 2 == 0) for number in range(20)} == {"renewed"}


def test_a_parent_that_is_held_for_three_seconds_loses_one_renewal() -> None:
    story = Story()
    assert story.round(beats=True) == "renewed"
    assert [story.round(), story.round(), story.round(beats=True), story.round()] == [
        "renewed",
        "skipped",
        "renewed",
        "renewed",
    ]


def test_a_parent_that_hangs_is_killed_in_the_last_round_before_its_time_is_over() -> None:
    story = Story()
    story.round(beats=True)
    assert story.until_something_else("renewed") == "skipped"
    assert story.until_something_else("skipped") == "killed"
    assert story.until - ROUND <= story.now < story.until


@pytest.mark.parametrize(("rounds", "then"), [(0, "renewed"), (1, "renewed"), (2, "skipped"), (4, "skipped")])
def test_a_pause_of_the_whole_group_is_not_its_silence(rounds: int, then: str) -> None:
    story = Story()
    story.round(beats=True)
    for _ in range(rounds):
        story.round()
    assert story.round(after=3600.0) == then, "the parent had no time to beat"
    assert story.round(beats=True) == "renewed"


@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_a_parent_that_does_not_go_on_after_a_pause_is_killed_when_it_had_its_chance(rounds: int) -> None:
    story = Story()
    story.round(beats=True)
    for _ in range(rounds):
        story.round()
    story.until = story.now
    assert story.round(after=3600.0, answered=False) != "killed"
    awake = 0
    while story.round(answered=False) != "killed":
        awake += 1
        assert awake < 9, "for ever"
    assert awake == max(0, 2 - rounds), "it had a second at least"


def test_a_monitor_that_is_late_takes_nothing_back() -> None:
    story = Story()
    story.round(beats=True)
    assert story.until_something_else("renewed") == "skipped"
    late = [story.round(after=4.0) for _ in range(3)]
    assert late == ["skipped"] * 3
    assert story.round() == "killed"


def test_a_kill_never_comes_in_the_first_round_of_a_silence() -> None:
    story = Story()
    story.round(beats=True)
    story.until = story.now + 0.5
    done = [story.round(answered=False) for _ in range(3)]
    assert done == ["renewed", "skipped", "killed"]


def test_a_database_that_is_slow_neither_hides_a_silence_nor_makes_one() -> None:
    story = Story()
    assert {story.round(beats=True, takes=4.0) for _ in range(5)} == {"renewed"}
    assert [story.round(takes=4.0), story.round()] == ["renewed", "skipped"]


def test_a_parent_that_was_alive_when_its_time_ran_out_has_nothing_and_is_given_as_long_again() -> None:
    story = Story()
    story.round(beats=True)
    for _ in range(20):
        assert story.round(beats=True, answered=False) == "renewed"
    alive = story.now
    story.round(answered=False)
    assert story.until_something_else("skipped") == "killed"
    assert alive + PATIENCE - ROUND <= story.now < alive + PATIENCE
