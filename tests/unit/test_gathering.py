"""When the segments that wait become a file."""

from __future__ import annotations

from etl_supervisor.ipc.messages import Segment
from workers.snowflake.gathering import Gathering


def segment(seq: int, length: int = 100) -> Segment:
    return Segment(1, seq, 0, 1, length, 1, f"{seq:03}", f"{seq:03}", 0)


def waiting(*segments: Segment) -> list[tuple[Segment, int | None]]:
    return [(item, None) for item in segments]


def test_a_file_is_due_when_it_is_large_enough() -> None:
    gathering = Gathering(bytes_max=250, seconds_max=60)
    for count, due in ((1, False), (2, False), (3, True)):
        gathering.note(waiting(*(segment(seq + 1) for seq in range(count))), now=10)
        gathering.note(waiting(*(segment(seq + 1) for seq in range(count))), now=11)
        assert gathering.due(1, now=12) is due


def test_a_file_is_due_when_its_oldest_segment_has_waited_long_enough() -> None:
    gathering = Gathering(bytes_max=1000, seconds_max=60)
    gathering.note(waiting(segment(1)), now=10)
    gathering.note(waiting(segment(1), segment(2)), now=60)
    assert not gathering.due(1, now=69)
    assert gathering.due(1, now=70)
    gathering.taken([segment(1)], now=70)
    assert not gathering.due(2, now=129)
    assert gathering.due(2, now=130)
    gathering.taken([segment(2)], now=130)
    gathering.note(waiting(segment(3)), now=500)
    assert not gathering.due(3, now=559)


def test_what_waited_for_the_channel_has_waited() -> None:
    gathering = Gathering(bytes_max=1000, seconds_max=60, since=5)
    gathering.note(waiting(segment(1)), now=20)
    assert not gathering.due(1, now=64)
    assert gathering.due(1, now=65)
    gathering.taken([segment(1)], now=65)
    gathering.note(waiting(segment(2)), now=100)
    assert not gathering.due(2, now=159)


def test_nobody_who_is_hurried_waits() -> None:
    gathering = Gathering(bytes_max=1000, seconds_max=60)
    gathering.note(waiting(segment(1), segment(2), segment(3)), now=0)
    gathering.hurried = 2
    assert gathering.due(1, now=0)
    assert gathering.due(2, now=0)
    assert not gathering.due(3, now=0)
