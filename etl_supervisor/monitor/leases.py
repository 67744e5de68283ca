"""Takes and renews the leases of the configured sources, in a thread of its own: nothing else that the monitor waits for may delay it.

    each second     who else holds something, and is dead on this machine? take what is free, renew what is ours; tell the parent
    no answer       nothing is told: the parent's time runs out, and it kills its readers before anybody else may have the source
    no parent       it hangs, and can't do that: nothing is renewed, and we kill it with all its children (`silence`)
    at the end      with no reader left: give up what is ours, so that the next one need not wait

A lease is kept while its source is configured, paused or not; what a supervisor has, it keeps. See `etl_supervisor.model.tenure` for the clocks.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import Leased
from etl_supervisor.model.tenure import FENCE_SECONDS, clock
from etl_supervisor.monitor.holder import holder_of, host_of, is_dead
from etl_supervisor.monitor.rounds import Rounds
from etl_supervisor.monitor.silence import Parent, Silence
from etl_supervisor.repository import leases
from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

RENEW_SECONDS = 1.0  # several times before a lease runs out; another's end is noticed as soon
ANSWER_SECONDS_MAX = 2  # then the connection is made anew: what was cut off says nothing
_OPTIONS = {
    "autocommit": True,
    "connect_timeout": ANSWER_SECONDS_MAX,
    "options": f"-c statement_timeout={ANSWER_SECONDS_MAX}s",
}

log = structlog.get_logger()


class Leases:
    """The leases of this supervisor, which is `parent`. `tell` sends it a message, from any thread."""

    def __init__(self, settings: Settings, tell: Callable[[Leased], None], parent: Parent) -> None:
        self._settings, self._tell, self._parent = settings, tell, parent
        self._holder = holder_of(parent.pid)
        self._silence = Silence(settings.lease_seconds - FENCE_SECONDS)
        self._until = -math.inf  # what the parent was told last
        self._connection: psycopg.Connection[Any] | None = None
        self._wanted: frozenset[int] = frozenset()
        self._epochs: dict[int, int] = {}
        self._rounds: Rounds | None = None

    @property
    def standby(self) -> bool:
        """Whether there are sources, and another supervisor has all of them."""
        return bool(self._wanted) and not self._epochs and self._rounds is not None

    def want(self, sources: Collection[int]) -> None:
        """These sources (ids) are configured. What we hold beside them we keep: its reader may still be draining."""
        self._wanted = frozenset(sources)
        if self._rounds is None and self._settings.lease_seconds > 0:
            self._rounds = Rounds("leases", RENEW_SECONDS, "leases_not_renewed", self._round)
            self._rounds.start()

    def is_elsewhere(self, source: int) -> bool:
        """Whether another supervisor has this source (id) now. EtlError(CONFIG_DATABASE)."""
        return self._settings.lease_seconds > 0 and leases.is_elsewhere(self._settings, self._holder, source)

    def close(self, *, give_up: bool) -> None:
        """End. `give_up`: nothing of ours runs any more."""
        if self._rounds is None:
            return
        self._rounds.close()
        self._disconnect()
        if give_up:
            with contextlib.suppress(psycopg.Error, EtlError), connect(self._settings.config_dsn(), **_OPTIONS) as last:
                leases.give_up(last, self._holder)

    def _round(self) -> None:
        """EtlError(CONFIG_DATABASE) when it could not be made; the next one makes a new connection."""
        self._silence.look(self._parent.heartbeat.last, clock())
        try:
            if self._silence.lasts:
                self._parent.silent(last=self._silence.is_last_chance(clock() + RENEW_SECONDS, self._until))
            else:
                self._parent.heard()
                self._renew()
        except EtlError:
            self._disconnect()
            raise
        finally:
            self._silence.rest(clock())

    def _renew(self) -> None:
        asked, seconds = clock(), self._settings.lease_seconds
        if self._connection is None:
            self._connection = connect(self._settings.config_dsn(), **_OPTIONS)
        impatience = threading.Timer(ANSWER_SECONDS_MAX, self._cut, [self._connection])
        impatience.start()
        try:
            dead = {other for other in leases.others(self._connection, self._holder) if is_dead(other)}
            wanted = self._wanted | self._epochs.keys()
            ours = leases.take(self._connection, self._holder, wanted, dead, seconds) if wanted else {}
        except psycopg.Error as error:
            raise trouble(error) from None
        finally:
            impatience.cancel()
        self._note(ours, dead)
        self._until = asked + seconds - FENCE_SECONDS
        with contextlib.suppress(ConnectionError):  # the parent is going, and we with it
            self._tell(Leased(tuple(sorted(ours)), self._until))

    def _note(self, ours: dict[int, int], dead: set[str]) -> None:
        for source in ours.keys() - self._epochs.keys():
            log.info("lease_taken", source_id=source, epoch=ours[source], of_the_dead=[host_of(name) for name in dead])
        for source in self._epochs.keys() - ours.keys():
            log.warning("lease_lost", source_id=source, epoch=self._epochs[source])
        self._epochs = ours

    @staticmethod
    def _cut(connection: psycopg.Connection[Any]) -> None:
        """Wake who waits for an answer that a network has swallowed."""
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
