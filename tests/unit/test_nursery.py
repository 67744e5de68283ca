"""A real nursery with next to nothing in it: whose children its children are, and what becomes of those that nobody waits for."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.ipc import mailbox
from etl_supervisor.supervision import nursery as nurseries
from etl_supervisor.supervision.nursery import Nursery

SECONDS_MAX = 10.0
PR_SET_CHILD_SUBREAPER = 36


def live(order: Any, connection: mailbox.Connection, parent: int) -> int:
    """Tell who its parent is, in the file that the order names."""
    path, code, _ = order
    Path(path).write_text(f"{os.getppid()} {parent} {'colorsys' in __import__('sys').modules}")
    return int(code)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with selectors.DefaultSelector() as selector:
        made = Nursery(["colorsys"], live, lambda: None, selector)
        yield made
        made.close()
        assert not selector.get_map()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def ready(nursery: Nursery) -> int:
    """Make it, and wait for its imports; its pid."""
    nursery.keep()
    assert nursery.importing
    nursery.heard()
    assert nursery.ready
    assert nursery.pid is not None
    return nursery.pid


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
    assert nursery.pid == pid
    assert nursery.knows("colorsys")
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
    deadline = time.monotonic() + SECONDS_MAX
    while os.waitpid(-1, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline
    assert not (tmp_path / "told").exists()
    assert nursery.pid is None, "and the nursery is not trusted any more"


@pytest.mark.parametrize("more", [b"", bytes(8 << 20)])
def test_one_that_is_stopped_is_given_up(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr(nurseries, "ANSWER_SECONDS_MAX", 1.0)
    pid = ready(nursery)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    child, ours = forked(nursery, tmp_path / "told", more=more)
    ours.close()
    assert child is None
    assert time.monotonic() - began < SECONDS_MAX
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "told").exists()
    nursery.keep()
    assert nursery.pid is None, "another is made later"
    monkeypatch.setattr(nursery, "_again_at", 0.0)
    ready(nursery)


def test_nobody_waits_for_ever_for_its_imports(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nurseries, "IMPORT_SECONDS_MAX", 0.1)
    nursery.keep()
    pid = nursery.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + SECONDS_MAX
    while nursery.importing:
        assert time.monotonic() < deadline
        nursery.keep()
    assert not Path(f"/proc/{pid}").exists()


def test_one_that_has_ended_is_noticed(nursery: Nursery) -> None:
    os.kill(ready(nursery), signal.SIGKILL)
    nursery.heard()
    assert not nursery.ready
    assert not nursery.importing
