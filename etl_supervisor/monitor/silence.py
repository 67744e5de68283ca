"""Whether the supervisor itself hangs, and its end: nobody else would see that before its readers and another's run side by side.

    beat      the parent's, once per turn of its loop; its turns are a second apart when nothing happens, and some more when the machine is slow
    silent    the same beat in three rounds of the leases, a second from each to the next: nothing is renewed, nothing new is taken
    the end   the time that the parent was told would be over before the next round; it can't keep to it, so it is killed with its children

A parent that was held for 3 s (a disk, a debugger) loses one renewal of several, and nothing else. Our own sleep is not its silence: rounds count,
not seconds, and one after too long a pause (the process group was stopped, the machine slept) neither counts nor kills: a parent that goes on with us
has time for many turns before anything is held against it. What the database took to answer is no pause.

A SIGKILL of the parent is not enough: the first process of a container gets none from inside, and one that waits for a broken disk dies when that
answers. So its children are killed one by one, then the parent, then we: nobody moves a row any more when another supervisor gets the lease.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from typing import Any

import structlog

from etl_supervisor.ipc.heartbeat import Heartbeat
from etl_supervisor.monitor.holder import children_of

SILENT_ROUNDS = 2  # after the one that saw a new beat: the parent has been silent for 2 to 3 s; a turn may wait 1 s, and fork for another
PAUSE_SECONDS_MAX = (
    3.0  # between two rounds, which should be one second: some more on a busy machine; beyond it we have not been awake
)
LOG_SECONDS_MAX = 0.5  # a log that nobody takes may be what the parent hangs at: it must not hold us as well

log = structlog.get_logger()


class Silence:
    """How long the parent has been silent while we were awake (pure; the clock is `model.tenure`'s). `patience` is how many seconds a parent may be
    silent that has nothing any more."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._beat = self._alive = self._rested = -math.inf
        self._rounds = 0  # in a row that saw the same beat

    def look(self, beat: float, now: float) -> None:
        """A round begins, and this is the parent's last beat."""
        if beat != self._beat:
            self._beat, self._alive = beat, now
            self._rounds = 0
        elif now - self._rested <= PAUSE_SECONDS_MAX:
            self._rounds += 1
        else:
            self._rounds = min(self._rounds, SILENT_ROUNDS)

    def rest(self, now: float) -> None:
        """The round has ended."""
        self._rested = now

    @property
    def lasts(self) -> bool:
        """Whether nothing may be renewed for it."""
        return self._rounds >= SILENT_ROUNDS

    def is_last_chance(self, next_round: float, until: float) -> bool:
        """Whether it has to be killed now: the time that it was told, `until`, would be over in the next round. One that was alive when that ran out
        has ended its readers itself. Never in the first round of a silence or after too long a pause."""
        end = until if until > self._alive else self._alive + self._patience
        return self._rounds > SILENT_ROUNDS and next_round >= end


class Parent:
    """The supervisor as its monitor sees it. To be made while it is known to be the parent."""

    def __init__(self, pid: int, heartbeat: Heartbeat) -> None:
        self.pid, self.heartbeat = pid, heartbeat
        self._pidfd = os.pidfd_open(pid)
        self._said = False

    def heard(self) -> None:
        """It beats."""
        self._said = False

    def silent(self, *, last: bool) -> None:
        """It does not. `last`: end it, its other children before, and ourselves if we are one."""
        if not self._said:
            self._said = True
            remedy = "see what it waits for (/proc/<pid>/stack, wchan), or whether somebody has stopped it; its leases run out meanwhile"
            _say("parent_silent", pid=self.pid, reason="the supervisor's main process hangs", remedy=remedy)
        if last:
            remedy = "have systemd or Kubernetes start it again; another supervisor goes on with its sources"
            _say("parent_killed", pid=self.pid, reason="it hangs, and its time is over", remedy=remedy)
            self._kill()

    def _kill(self) -> None:
        is_ours = os.getppid() == self.pid
        others = children_of(self.pid) - {os.getpid()}  # a parent that hangs reaps none: these pids are nobody else's
        for child in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if is_ours:
            os.kill(os.getpid(), signal.SIGKILL)


def _say(event: str, **fields: Any) -> None:
    said = threading.Thread(target=log.error, args=[event], kwargs=fields, daemon=True)
    said.start()
    said.join(LOG_SECONDS_MAX)
