"""What PID 1 owes: processes whose parent has died come to it, and stay zombies until it looks at them.

In a container the supervisor is often PID 1. Its own children are buried by their posts, which want their exit codes; everything else is
looked at here and forgotten. Elsewhere the machine's init does this.
"""

from __future__ import annotations

import os
from collections.abc import Collection

INIT_PID = 1


def reap_orphans(ours: Collection[int]) -> int:
    """Reap ended processes until none is left, or until one of `ours` comes first (it is buried next); how many were reaped."""
    reaped = 0
    while (pid := _ended()) is not None and pid not in ours:
        os.waitpid(pid, 0)
        reaped += 1
    return reaped


def _ended() -> int | None:
    """The pid of a process that has ended and is ours to reap; it stays as it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None
