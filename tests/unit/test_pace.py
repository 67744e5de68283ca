"""A pause follows work that takes long."""

from __future__ import annotations

from workers.reader.pace import Pace


def test_work_that_takes_long_is_followed_by_a_pause() -> None:
    pace = Pace()
    assert pace.begin(100.0)
    pace.end(100.02, due=150.0)
    assert pace.due_at == 150.0
    assert not pace.begin(100.1)
    assert 100.1 < pace.due_at < 100.3, "it was asked for: as soon as the pause is over"
    assert pace.begin(100.3)
    pace.end(100.3, due=float("inf"))
    assert pace.begin(100.3), "what takes no time needs no pause"
