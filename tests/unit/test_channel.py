"""The books of a channel: when a segment is durable, and when its rows are looked at first."""

from __future__ import annotations

from etl_supervisor.ipc.messages import Segment
from etl_supervisor.model.position import Position
from workers.snowflake.channel import Channel, ChannelStatus


def token(commit: int, row: int = 0) -> str:
    return Position(7, commit, row, 0).token


def segment(seq: int, first: int, last: int) -> Segment:
    return Segment(1, seq, seq, 1, 10, 5, token(first), token(last), 0)


def opened(committed: str | None = None, errors: int = 0, known: int = 0) -> Channel:
    channel = Channel()
    channel.opened(ChannelStatus(committed, errors, True), known)
    for seq in (1, 2, 3):
        channel.waiting.append((segment(seq, seq * 10, seq * 10 + 5), None))
    return channel


def test_a_segment_is_durable_when_its_token_is_committed() -> None:
    channel = opened()
    for seq in (1, 2, 3):
        channel.took(token(seq * 10 + 5))
    assert channel.told(token(14)) == []
    through = channel.told(token(25))
    assert [item.segment.seq for item in through] == [1, 2]
    assert not channel.suspicious(through, 0)
    channel.settled(through)
    assert (channel.durable_seq, channel.idle) == (2, False)


def test_a_channel_stalls_from_its_last_progress_on() -> None:
    channel = opened()
    assert channel.stalled_seconds(100.0) == 0.0, "nothing is underway"
    channel.took(token(15), now=100.0)
    channel.took(token(25), now=102.0)
    assert channel.stalled_seconds(130.0) == 30.0
    channel.settled(channel.told(token(15), 130.0))
    assert channel.stalled_seconds(131.0) == 1.0
    assert channel.told(token(15), 140.0) == [], "it says the same again"
    assert channel.stalled_seconds(141.0) == 11.0
    channel.told(token(18), 142.0)
    assert channel.stalled_seconds(143.0) == 1.0, "a part of a segment is progress"
    channel.settled(channel.told(token(25), 150.0))
    channel.took(token(35), now=200.0)
    assert channel.stalled_seconds(201.0) == 1.0, "the pause before does not count"


def test_a_segment_of_dead_rows_alone_waits_only_for_what_was_handed_before() -> None:
    channel = opened()
    channel.took("")  # all its rows are in the dead letter, and nothing was ever appended
    assert [item.segment.seq for item in channel.told(None)] == [1]
    channel.settled(channel.told(None))
    channel.took(token(25))
    channel.took(token(25))  # dead again
    assert channel.told(token(15)) == []
    assert [item.segment.seq for item in channel.told(token(25))] == [2, 3]
    assert channel.reached == token(35)


def test_a_counter_that_runs_ahead_of_the_token_keeps_later_segments_under_suspicion() -> None:
    channel = opened()
    for seq in (1, 2, 3):
        channel.took(token(seq * 10 + 5))
    through = channel.told(token(15))
    assert channel.suspicious(through, 3)
    channel.sifted(through, 2, 3)  # the third is in a segment that the token has not reached
    assert channel.baseline == 2
    later = channel.told(token(35))
    assert channel.suspicious(later, 3)
    channel.sifted(later, 0, 3)
    assert channel.baseline == 3, "everything was looked at: the counter's word is taken"
    assert channel.idle


def test_refusals_while_nobody_looked_are_looked_for_in_what_comes_again() -> None:
    channel = opened(committed=token(25), errors=5, known=3)
    channel.took(token(25))
    through = channel.told(token(25))
    assert channel.suspicious(through, 5), "the counter has not risen since, but before"
    channel.sifted(through, 0, 5)
    assert channel.baseline == 3, "more of it may come"
    channel.took(token(25))
    channel.sifted(channel.told(token(25)), 0, 5)
    channel.took(token(35))
    beyond = channel.told(token(35))
    assert not channel.suspicious(beyond, 5)
    channel.settled(beyond)
    assert channel.baseline == 5


def test_a_channel_that_began_anew_is_in_doubt_too() -> None:
    channel = opened(committed=None, errors=0, known=4)
    channel.took(token(15))
    through = channel.told(token(15))
    assert not channel.suspicious(through, 0), "nothing was committed, so everything comes again and is counted anew"
    channel.settled(through)
    assert channel.baseline == 0
