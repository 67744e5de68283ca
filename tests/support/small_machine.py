"""Processes with little memory: the kernel kills one of them when they want more together."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POLL_SECONDS = 0.1
ROOT = Path("/sys/fs/cgroup/memory")  # cgroups of version 1; it takes root to make one


@contextmanager
def small_machine(megabytes: int) -> Iterator[Path]:
    """A cgroup with so much memory: every process that is started within it is in it, and so are its children. It must be over at the end."""
    group = ROOT / f"etl-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup with a limit of memory can be made here: {error.strerror}")
    (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
    try:
        yield group
    finally:
        while left := (group / "cgroup.procs").read_text().split():  # a test that has failed
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        group.rmdir()


@contextmanager
def within(group: Path) -> Iterator[None]:
    """This process is in it, for as long as it takes to start another."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    ours = next(line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(","))
    _move(group)
    try:
        yield
    finally:
        _move(ROOT / ours.lstrip("/"))


def _move(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
