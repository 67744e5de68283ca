"""A real nursery with next to nothing in it: whose children its children are, and what becomes of those that nobody waits for."""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.ipc import mailbox
from etl_supervisor.model.tenure import FENCE_SECONDS
from etl_supervisor.supervision import nursery as nurseries
from etl_supervisor.supervision.nursery import Nursery

SECONDS_MAX = 10.0
PR_SET_CHILD_SUBREAPER = 36
HEAVY = "a_heavy_library"


def live(order: Any, connection: mailbox.Connection, parent: int) -> int:
    """Tell who its parent is, in the file that the order names."""
    path, code, _ = order
    Path(path).write_text(f"{os.getppid()} {parent} {HEAVY in sys.modules}")
    return int(code)


@pytest.fixture
def nursery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    (tmp_path / f"{HEAVY}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with selectors.DefaultSelector() as selector:
        made = Nursery([HEAVY], live, lambda: None, selector)
        yield made
        made.close()
        assert not selector.get_map()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def ready(nursery: Nursery) -> int:
    """Make it, and wait for its imports; its pid."""
    nursery.keep()
    assert nursery.importing
    until(lambda: hear(nursery))
    assert nursery.ready
    assert nursery.pid is not None
    return nursery.pid


def hear(nursery: Nursery) -> bool:
    """Whether it has said something."""
    nursery.heard()
    return nursery.ready or nursery.pid is None


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def gone(pid: int) -> bool:
    """Its end is seen by whoever looks after orphans; here that is us."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def forked(nursery: Nursery, path: Path, code: int = 7, more: bytes = b"") -> tuple[Any, mailbox.Connection]:
    ours, theirs = mailbox.pair()
    child = nursery.fork((str(path), code, more), ours, theirs)
    theirs.close()
    return child, ours


def test_a_child_is_the_callers_own_and_finds_what_was_imported(nursery: Nursery, tmp_path: Path) -> None:
    pid = ready(nursery)
    for number in range(3):
        child, ours = forked(nursery, tmp_path / "told", code=number)
        child.join()
        ours.close()
        assert child.exitcode == number
        assert (tmp_path / "told").read_text() == f"{os.getpid()} {os.getpid()} True"
    assert HEAVY not in sys.modules
    assert nursery.pid == pid
    assert nursery.knows(HEAVY)
    assert not nursery.knows("json")


def test_what_kills_a_child_is_seen(nursery: Nursery, tmp_path: Path) -> None:
    ready(nursery)
    os.mkfifo(tmp_path / "nobody reads")
    child, ours = forked(nursery, tmp_path / "nobody reads")
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    ours.close()
    assert child.exitcode == -signal.SIGKILL


def test_a_child_that_nobody_knows_of_ends_before_it_begins(nursery: Nursery, tmp_path: Path) -> None:
    ready(nursery)
    ours, theirs = mailbox.pair()
    ours.close()
    assert nursery.fork((str(tmp_path / "told"), 0, b""), ours, theirs) is None
    theirs.close()
    ended = set()
    until(lambda: bool(ended.add(os.waitpid(-1, os.WNOHANG)) or len(ended - {(0, 0)}) == 2))  # it, and its nursery
    assert not (tmp_path / "told").exists()
    assert nursery.pid is None, "and the nursery is not trusted any more"


@pytest.mark.parametrize("more", [b"", bytes(8 << 20)])
def test_one_that_is_stopped_is_given_up_before_a_lease_runs_out(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    pid = ready(nursery)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    child, ours = forked(nursery, tmp_path / "told", more=more)
    ours.close()
    assert child is None
    assert time.monotonic() - began < FENCE_SECONDS
    until(lambda: gone(pid))
    assert not (tmp_path / "told").exists()
    nursery.keep()
    assert nursery.pid is None, "another is made later"
    monkeypatch.setattr(nursery, "_again_at", 0.0)
    ready(nursery)


def test_nobody_waits_for_ever_for_its_imports(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nurseries, "WAIT_SECONDS_MAX", 0.1)
    monkeypatch.setattr(nurseries, "IMPORT_SECONDS_MAX", 0.2)
    pauses = []
    for _ in range(8):
        monkeypatch.setattr(nursery, "_again_at", 0.0)
        nursery.keep()
        pid = nursery.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        until(lambda: not nursery.importing)
        assert nursery.pid == pid, "children make their own imports now; it may come yet"
        until(lambda: bool(nursery.keep() or nursery.pid is None))
        until(lambda pid=pid: gone(pid))
        pauses.append(nursery._again_at - time.monotonic())
    assert pauses == pytest.approx([30, 60, 120, 240, 480, 960, 960, 960], abs=SECONDS_MAX)


def test_one_that_has_ended_is_noticed(nursery: Nursery) -> None:
    pid = ready(nursery)
    os.kill(pid, signal.SIGKILL)
    until(lambda: hear(nursery) and not nursery.ready)
    until(lambda: gone(pid))
    assert not nursery.importing


def test_one_that_ends_while_a_child_is_ordered(nursery: Nursery, tmp_path: Path) -> None:
    pid = ready(nursery)
    os.kill(pid, signal.SIGKILL)
    child, ours = forked(nursery, tmp_path / "told")
    ours.close()
    assert child is None
    assert nursery.pid is None


def test_a_machine_without_room_for_it(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process left")

    descriptors = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as context:
        context.setattr(os, "fork", full)
        nursery.keep()
    assert nursery.pid is None
    assert not nursery.importing
    assert set(os.listdir("/proc/self/fd")) <= descriptors
    nursery.keep()
    assert nursery.pid is None, "another try is made later"
    nursery.close()


def test_where_nobody_can_be_a_subreaper_there_is_none(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nurseries, "_become_subreaper", lambda: False)
    nursery.keep()
    assert nursery.pid is None
    assert not nursery.importing
