"""A kill by the kernel for want of memory is told from a kill by a person, where the kernel counts them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from etl_supervisor.exits import Exit
from etl_supervisor.supervision.shortage import Shortage, counter, kills

VERSION_2 = "low 0\nhigh 12\nmax 40\noom 3\noom_kill {}\noom_group_kill 0\n"
VERSION_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize("text", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
def test_a_kill_counts_when_the_kernels_counter_has_risen_since(tmp_path: Path, text: str) -> None:
    file = tmp_path / "counter"
    file.write_text(text.format(7))
    shortage = Shortage(file)
    assert not shortage.took(-signal.SIGKILL), "seven kills were before us"
    file.write_text(text.format(8))
    assert shortage.took(-signal.SIGKILL)
    assert not shortage.took(-signal.SIGKILL), "each rise is one answer"
    file.write_text(text.format(9))
    assert not shortage.took(-signal.SIGSEGV), "another process was killed: this one has crashed"
    assert not shortage.took(-signal.SIGKILL), "that rise is past"


def test_an_allocation_that_failed_is_want_of_memory_without_any_counter(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path / "nothing")
    assert shortage.took(Exit.MEMORY)
    assert not shortage.took(-signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill 1 2", "oom 5"])
def test_a_file_that_does_not_tell_counts_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "counter").write_text(text)
    assert kills(tmp_path / "counter") is None


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/a.slice/b.scope", "a.slice/b.scope/memory.events"),
        ("0::/", "memory.events"),
        ("0::/seen/from/the/host", "memory.events"),  # in a container its own cgroup is mounted as the root
        ("4:memory:/a/b", "memory/a/b/memory.oom_control"),
        ("4:cpu,memory:/a/b", "memory/memory.oom_control"),
    ],
)
def test_the_counter_of_our_cgroup_is_found_on_both_versions(tmp_path: Path, line: str, file: str) -> None:
    ours, cgroups = tmp_path / "ours", tmp_path / "cgroups"
    ours.write_text(f"9:name=systemd:/\n{line}\n")
    assert counter(cgroups, ours) is None
    there = cgroups / file
    there.parent.mkdir(parents=True)
    there.write_text(VERSION_2.format(0))
    assert counter(cgroups, ours) == there
