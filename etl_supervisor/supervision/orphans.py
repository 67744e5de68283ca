"""What a subreaper owes: processes whose parent has died come to it, and stay zombies until it looks at them.

The supervisor is one (see `nursery`), and in a container it is often PID 1 as well. Its own children are buried by their posts, which want their exit
codes; everything else is looked at here and forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Collection


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
