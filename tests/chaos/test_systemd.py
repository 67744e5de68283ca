"""The supervisor as a service of systemd: what it tells, when, and that nobody but itself does."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from etl_supervisor.supervision.nursery import WAIT_SECONDS_MAX
from tests.support.fix_deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

INTERVAL_SECONDS = 2.0
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True)
class Heard:
    """One datagram, with who sent it."""

    at: float
    pid: int
    words: tuple[str, ...]


class Systemd:
    """Listens at NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.heard: list[Heard] = []
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(round(INTERVAL_SECONDS * 1_000_000))}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
            if not data:
                return
            pid, _, _ = CREDENTIALS.unpack(ancillary[0][2])
            with self._news:
                self.heard.append(Heard(time.monotonic(), pid, tuple(data.decode().splitlines())))
                self._news.notify_all()

    def said(self, word: str, since: int = 0) -> list[Heard]:
        """The messages with a word that begins like this, from the `since`th message on."""
        return [heard for heard in self.heard[since:] if any(said.startswith(word) for said in heard.words)]

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        with self._news:
            before = len(self.heard)
            return not self._news.wait_for(lambda: len(self.heard) > before, seconds)

    def close(self) -> None:
        """No more is heard."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def begin(deploy: Deployment, systemd: Systemd) -> int:
    """Start a supervisor with a source that works, and one that nobody answers for; its pid."""
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("insert into items select g, 'n' from generate_series(1, 10) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.add("nobody", pg_port=1)
    deploy.start(**systemd.environment, LEASE_SECONDS="60")  # its monitor would kill one that is stopped for longer
    assert deploy.supervisor is not None
    return deploy.supervisor.pid


def state(pid: int) -> str:
    """The letter of /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ready_is_told_when_monitor_and_actors_are(deploy: Deployment, systemd: Systemd) -> None:
    begun = time.monotonic()
    pid = begin(deploy, systemd)
    nursery = wait_for("the nursery", lambda: deploy.children().get("etl-nursery"))
    os.kill(nursery, signal.SIGSTOP)  # the actors wait for it
    wait_for("the monitor", lambda: "etl-monitor" in deploy.children())
    wait_for("signs of life", lambda: len(systemd.said("WATCHDOG=1")) >= 4)
    assert not systemd.said("READY=1") or time.monotonic() > begun + WAIT_SECONDS_MAX
    os.kill(nursery, signal.SIGCONT)
    wait_for("READY=1", lambda: systemd.said("READY=1"))
    assert {"etl-monitor", "etl-actor-0", "etl-actor-1"} <= deploy.children().keys()
    wait_for("the state of the source", lambda: systemd.said("STATUS=source_unreachable at source nobody"))
    deploy.ready("shop")
    actor = deploy.children()["etl-actor-0"]
    os.kill(actor, signal.SIGKILL)
    wait_for("another actor", lambda: deploy.children().get("etl-actor-0", actor) != actor)
    actor = wait_for("another actor", lambda: deploy.children().get("etl-actor-1"))
    os.kill(actor, signal.SIGSTOP)  # the drain waits for it
    assert not systemd.said("STOPPING=1")
    os.kill(pid, signal.SIGTERM)
    wait_for("STOPPING=1", lambda: systemd.said("STOPPING=1"))
    assert deploy.supervisor is not None
    assert deploy.supervisor.poll() is None
    os.kill(actor, signal.SIGCONT)
    assert deploy.supervisor.wait(60) == 0
    assert [heard.words for heard in systemd.said("READY=1")] == [("READY=1", "STATUS=running")]
    assert len(systemd.said("STOPPING=1")) == 1
    assert {heard.pid for heard in systemd.heard} == {pid}


def test_signs_of_life_come_from_a_supervisor_that_lives(deploy: Deployment, systemd: Systemd) -> None:
    pid = begin(deploy, systemd)
    deploy.ready("shop")
    since = len(systemd.heard)
    wait_for("signs of life", lambda: len(systemd.said("WATCHDOG=1", since)) >= 12)
    told = systemd.said("WATCHDOG=1", since)
    pauses = [later.at - earlier.at for earlier, later in pairwise(told)]
    assert median(pauses) <= INTERVAL_SECONDS / 2
    assert max(pauses) < INTERVAL_SECONDS
    children = [pid for name, pid in deploy.children().items() if name.startswith(("etl-monitor", "etl-actor"))]
    os.kill(pid, signal.SIGSTOP)
    wait_for("the supervisor to stand still", lambda: state(pid) == "T")
    systemd.silent(0.5)  # what it had said before
    assert systemd.silent(1.5 * INTERVAL_SECONDS)
    assert len(children) == 3
    assert {state(child) for child in children} <= {"R", "S", "D"}, "its children run"
    since = len(systemd.heard)
    os.kill(pid, signal.SIGCONT)
    wait_for("signs of life", lambda: systemd.said("WATCHDOG=1", since))
    assert deploy.stop() == 0
    assert {heard.pid for heard in systemd.heard} == {pid}
