"""What the SDK may hold of all channels together."""

from __future__ import annotations

from workers.snowflake.held import SENT_SECONDS, Held


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_whoever_holds_nothing_may_append_and_whoever_holds_much_flushes_first() -> None:
    held = Held(100, Clock())
    assert not held.full("a", 1000)
    held.add("a", 60)
    assert not held.full("a", 40)
    assert held.full("a", 41)
    held.clear("a")
    assert not held.full("a", 41)


def test_channels_share_the_limit_and_none_waits_for_another() -> None:
    held = Held(100, Clock())
    held.add("a", 90)
    assert not held.full("b", 50)
    held.add("b", 20)
    assert held.full("b", 1)
    assert held.full("a", 1)


def test_what_was_appended_long_ago_counts_only_against_its_own_channel() -> None:
    clock = Clock()
    held = Held(100, clock)
    held.add("a", 95)
    clock.now += SENT_SECONDS + 1
    held.add("b", 10)
    assert not held.full("b", 90)
    assert held.full("a", 6)
