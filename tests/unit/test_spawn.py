"""How the end of a child is told: by its exit code, and by one line of its log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from etl_supervisor.config.settings import load
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import HeartbeatPage
from etl_supervisor.ipc.messages import Ready
from etl_supervisor.supervision.spawn import ChildContext, run
from etl_supervisor.supervision.spec import ChildKind, ChildSpec


def listens(context: ChildContext) -> int:
    """Waits for the parent's words."""
    os.set_blocking(context.parent.fileno(), True)
    while True:
        context.parent.receive()


def speaks(context: ChildContext) -> int:
    """Tells the parent something again and again."""
    while True:
        context.parent.send(Ready())


def is_cut_off(_: ChildContext) -> int:
    """Loses a connection that is not the parent's."""
    raise ConnectionResetError("somebody else")


def fails(_: ChildContext) -> int:
    """Says what is wrong."""
    raise EtlError(Kind.STATE_STORE, "Redis", "it does not answer")


def life(enter: Callable[[ChildContext], int], folder: Path) -> tuple[int, list[str]]:
    """The exit code of a child whose parent has closed its mailbox, and the events of its log."""
    spec = ChildSpec("child", ChildKind.MONITOR, f"{__name__}:{enter.__name__}")
    settings = load(folder, {"DATABASE_URL": "postgresql://u@h/d", "REDIS_URL": "redis://h"})
    ours, theirs = mailbox.pair()
    page = HeartbeatPage()
    context = ChildContext("child", 0, 1, theirs, page.allot(), page.parent, settings, None, -1, (), None, ())
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.dup2(os.open(folder / "log", os.O_CREAT | os.O_WRONLY), 2)
            os._exit(run(spec, context, parent))
        finally:
            os._exit(255)
    theirs.close()
    ours.close()
    _, status = os.waitpid(pid, 0)
    lines = (folder / "log").read_bytes().splitlines()
    return os.waitstatus_to_exitcode(status), [orjson.loads(line)["event"] for line in lines]


@pytest.mark.parametrize("enter", [listens, speaks])
def test_a_child_whose_parent_has_gone_has_not_crashed(enter: Callable[[ChildContext], int], tmp_path: Path) -> None:
    assert life(enter, tmp_path) == (Exit.UNEXPECTED, ["parent_gone"])


def test_a_child_that_loses_another_connection_has_crashed(tmp_path: Path) -> None:
    assert life(is_cut_off, tmp_path) == (Exit.UNEXPECTED, ["child_crashed"])


def test_a_child_that_knows_what_is_wrong_says_so(tmp_path: Path) -> None:
    assert life(fails, tmp_path) == (Exit.UNREACHABLE, ["child_failed"])
