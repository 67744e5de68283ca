"""No core dumps of a process that holds keys: its memory has them in clear, a file or a crash collector would keep them.

RLIMIT_CORE is inherited by everything that is started from here. PR_SET_DUMPABLE covers what the limit does not (a `core_pattern` that pipes to a
program), and keeps the process's memory and environment from others of the same user (ptrace, /proc/<pid>/mem and environ: root alone). It is
inherited by forks and ends with an exec. Embedded servers are started by an exec and have no keys of ours.
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """For this process and its forks, from now on. Twice does nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
