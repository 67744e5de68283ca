"""The page in which processes write when they were last alive."""

from __future__ import annotations

import os
import signal
import time

from etl_supervisor.ipc.heartbeat import HeartbeatPage

LOOKS = 2_000_000  # a beat that is half written was seen after some 10,000


def test_a_beat_is_never_seen_half_written() -> None:
    page = HeartbeatPage()
    heartbeat, began = page.allot(), time.monotonic()
    writer = os.fork()
    if writer == 0:
        try:
            while True:
                heartbeat.beat()
        finally:
            os._exit(0)
    try:
        assert all(heartbeat.last >= began - 1 for _ in range(LOOKS))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def test_slots_are_apart_and_given_out_again() -> None:
    page = HeartbeatPage()
    first, second = page.allot(), page.allot()
    first.beat()
    assert first.last >= second.last > 0
    assert page.parent.last == 0
    assert page.of(second.slot).last == second.last
    page.give_back(second)
    assert page.allot().slot == second.slot
