"""What systemd is told, and by whom."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_supervisor.supervision.notify import WORD_CHARS_MAX, notify, watchdog_seconds

SYSTEMD_BYTES_MAX = 4096


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What listens at NOTIFY_SOCKET."""
    name = f"@etl-test-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "notify")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.setblocking(False)
        yield listening


def heard(systemd: socket.socket) -> list[str]:
    """All that was said; a datagram to a socket of this machine is there when it is sent."""
    found = []
    while True:
        try:
            found.append(systemd.recv(65536).decode())
        except BlockingIOError:
            return found


def test_a_message_is_one_datagram(systemd: socket.socket) -> None:
    notify("READY=1", "STATUS=running")
    notify("WATCHDOG=1")
    assert heard(systemd) == ["READY=1\nSTATUS=running", "WATCHDOG=1"]


def test_a_name_with_a_line_feed_says_nothing_else(systemd: socket.socket) -> None:
    notify("STATUS=schema at public.a\nMAINPID=1\r\nSTOPPING=1: x")
    assert heard(systemd) == ["STATUS=schema at public.a MAINPID=1 STOPPING=1: x"]


def test_a_long_status_is_cut_to_what_systemd_takes(systemd: socket.socket) -> None:
    notify("READY=1", "STATUS=" + "漢" * 100_000)
    (said,) = heard(systemd)
    assert len(said.encode()) < SYSTEMD_BYTES_MAX
    assert said.endswith("漢")
    assert len(said.splitlines()[1]) == WORD_CHARS_MAX


def test_a_process_that_is_not_the_main_one_is_silent(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify("WATCHDOG=1")
    assert watchdog_seconds() == 10
    pid = os.fork()
    if pid == 0:
        notify("STOPPING=1")
        os._exit(7 if watchdog_seconds() == float("inf") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    notify("READY=1")
    assert watchdog_seconds() == float("inf")
    assert heard(systemd) == ["WATCHDOG=1"]


def test_nobody_who_listens_and_a_full_queue_hold_nobody_up(systemd: socket.socket) -> None:
    for _ in range(10_000):
        notify("WATCHDOG=1")
    assert 0 < len(heard(systemd)) < 10_000
    systemd.close()
    notify("WATCHDOG=1")


def test_without_systemd_nothing_is_said(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
    assert heard(systemd) == []


@pytest.mark.parametrize("interval", ["", "0", "-5", "x", "²"])
def test_an_interval_that_is_none_is_no_reason_to_hurry(interval: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    assert watchdog_seconds() == float("inf")
