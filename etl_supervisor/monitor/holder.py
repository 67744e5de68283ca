"""What a supervisor is called among those that share a config database, and whether one of this machine is still there.

    <boot id>/<pid namespace>/<pid>/<when it started>/<host name>

The first four are the same process or none: they hold for every restart of the monitor, and need not be kept anywhere. Of a name that was given on
this boot, in this namespace, we can see whether its process is there: a supervisor that was killed is followed at once, and need not be waited for.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STATE, _PARENT, _START_TIME = 0, 1, 19  # fields of /proc/<pid>/stat behind the name


def holder_of(pid: int) -> str:
    """The name of the supervisor with this pid."""
    return f"{_here()}/{pid}/{_stat(pid)[_START_TIME]}/{socket.gethostname()}"


def is_dead(holder: str) -> bool:
    """True when it was a process of this machine and is none any more; False also when that can't be known."""
    here, pid, started = _parts(holder)
    if here != _here() or not pid.isdecimal():
        return False
    try:
        found = _stat(int(pid))
    except FileNotFoundError:
        return True
    return found[_START_TIME] != started or found[_STATE] in "ZX"  # a zombie's children have died with it


def children_of(pid: int) -> set[int]:
    """The pids of its children, of those too that have ended and were not looked at."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and _stat(int(folder.name))[_PARENT] == str(pid):
                found.add(int(folder.name))
    return found


def host_of(holder: str) -> str:
    """For people: host name and pid."""
    parts = holder.split("/", 4)
    return f"{parts[4]}, pid {parts[2]}" if len(parts) == 5 else holder


def _parts(holder: str) -> tuple[str, str, str]:
    parts = holder.split("/", 4)
    return ("", "", "") if len(parts) != 5 else (f"{parts[0]}/{parts[1]}", parts[2], parts[3])


def _here() -> str:
    return f"{_BOOT_ID.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the process's name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
