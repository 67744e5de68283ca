"""Whether a child died for want of memory: an allocation failed, or the kernel has killed a process of our cgroup.

The kernel counts its kills per cgroup (`memory.events` of version 2, `memory.oom_control` of version 1: `oom_kill N`). A SIGKILL that we did not send
is one of those when the counter has risen since we last looked. Of several children that it killed at once only the first is told from a kill from
outside. Where there is no such file (a machine without a limit: its kernel log has it), or where the kernel kills the whole cgroup
(`memory.oom.group`), nothing is known.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

from etl_supervisor.exits import Exit, crashed_by_itself
from etl_supervisor.ipc.messages import ActorEnded
from etl_supervisor.supervision.births import Child

CGROUPS = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")
_COUNTER = "oom_kill"


def kills(file: Path) -> int | None:
    """How many processes the kernel has killed for want of memory; None where the file does not tell."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    counts = [line.split() for line in lines]
    return next((int(item[1]) for item in counts if len(item) == 2 and item[0] == _COUNTER), None)


def counter(cgroups: Path = CGROUPS, ours: Path = OURS) -> Path | None:
    """The file that has it for us; in a container our cgroup is the root of what is mounted."""
    try:
        lines = ours.read_text().splitlines()
    except OSError:
        return None
    return next((file for file in _candidates(cgroups, lines) if kills(file) is not None), None)


def _candidates(cgroups: Path, lines: Iterable[str]) -> Iterable[Path]:
    for line in lines:  # number:controllers:/path
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from (cgroups / path.lstrip("/") / "memory.events", cgroups / "memory.events")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            yield from (root / path.lstrip("/") / "memory.oom_control", root / "memory.oom_control")


class Shortage:
    """The kills that we know of. `file` is the counter's (None: nobody counts)."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = counter() if file is None else file
        self._known = self._count()

    def took(self, code: int) -> bool:
        """Whether a child with this exit code (negative: a signal) died for want of memory; asked once for each that ends, whoever it is:
        the next one's kill by hand would be taken for that of the kernel."""
        known, self._known = self._known, self._count()
        return code == Exit.MEMORY or (code == -signal.SIGKILL and self._known > known)

    @staticmethod
    def word_of_end(actor: Child, code: int, *, memory: bool) -> ActorEnded:
        """Whether the rows that a dead actor had in hand may be why it is dead. `memory`: it `took` too much."""
        ours = actor.stopping or actor.kill_at != float("inf")
        return ActorEnded(actor.spec.actor, (crashed_by_itself(code) or memory) and not ours, memory)

    def _count(self) -> int:
        return (kills(self._file) if self._file is not None else None) or 0
