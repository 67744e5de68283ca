"""The few lines that run between us and a server: drop root, tie the life to the parent's, become the program.

    python -I -S launch.py PARENT_PID SIGNAL UID GID PROGRAM [ARGUMENT ...]       UID -1: stay who we are

It is a program of its own, and not code between fork and exec, because a parent with threads may not run Python there.
The order matters: the kernel forgets the death signal when the user changes, so it is set last; a parent that died
before that would never be noticed, so it is looked for afterwards. Standard library only; nothing of the package.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become PROGRAM; return only when that fails, with one line on stderr (the server's log)."""
    parent_pid, death_signal, uid, gid = (int(text) for text in arguments[:4])
    program = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit("the process that asked for this server is gone")
    os.execv(program[0], program)  # noqa: S606 - the caller names the program


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"could not start {sys.argv[5]}: {error}")
