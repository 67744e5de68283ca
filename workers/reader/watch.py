"""What the reader sees of its source beside the stream: the end of its WAL, the health of our slot, the heartbeat.

Looked at in a thread of its own (`aside`), so that a server that hangs in a query does not stop status updates; the loop calls `tick`
about once a second and finds the newest `facts`. A slot that is lost while nobody streams from it would not be noticed otherwise:
`tick` then raises EtlError(SLOT_LOST) with the reason that the server gives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import Kind
from workers.reader.aside import LIMITS, Aside
from workers.reader.heartbeat import Access, Pulse, connect_primary, emit
from workers.reader.slot import SlotFacts, read_slot
from workers.reader.source import in_recovery, invalid, lost_slot, wal_end
from workers.reader.stream import connect

SLOT_SECONDS = 10.0  # how often the slot is looked at: far below the minutes in which WAL is used up

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Facts:
    """The newest that is known. `slot` is None until it was looked at."""

    standby: bool
    wal_end: int = 0
    slot: SlotFacts | None = None


class Watch:
    """The look-out of one reader."""

    def __init__(self, access: Access, slot: str, *, standby: bool) -> None:
        self._access = access
        self._slot = slot
        self._slot_due = 0.0
        self._lost: str | None = None
        self._said: tuple[str, ...] = ()
        self.facts = Facts(standby)
        self._observer = Aside("watch", self._connect, self._observe)
        self._heart: Aside | None = None
        self._pulse = Pulse(access.source.heartbeat_seconds, time.monotonic())

    def close(self) -> None:
        """End the threads."""
        self._observer.close()
        if self._heart is not None:
            self._heart.close()

    @property
    def trouble(self) -> str:
        """The most important line that an operator should read; empty when all is well."""
        return next(iter(self._troubles()), "")

    def tick(self, now: float, rows: int) -> None:
        """Look again, and beat when the source is quiet; `rows` is how many have come in all. EtlError(SLOT_LOST) when it is."""
        self._observer.ask()
        if self._pulse.beats(now, rows) and (self._access.primary_url or not self.facts.standby):
            self._heart = self._heart or Aside("heartbeat", self._connect_heart, emit)
            self._heart.ask()
        if self._lost:
            raise lost_slot(self._access.source, self._slot, self._lost)
        troubles = self._troubles()
        for line in troubles:
            if line not in self._said:
                log.warning("source_trouble", source=self._access.source.name, reason=line)
        self._said = troubles

    def _troubles(self) -> tuple[str, ...]:
        slot = self.facts.slot
        place = f"source {self._access.source.name}"
        found = []
        if slot is not None and slot.warning:
            found.append(f"{Kind.SLOT_LOST} at {place}: not yet, but soon: {slot.warning}")
        if self._heart is not None and self._heart.trouble:
            found.append(f"heartbeat of {place}: {self._heart.trouble}")
        if self._observer.trouble:
            found.append(f"watch of {place}: {self._observer.trouble}")
        return tuple(found)

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._access.source, self._access.password, **LIMITS)

    def _connect_heart(self) -> psycopg.Connection[Any]:
        """Where WAL can be written. Decided anew at each connection: a standby may have been promoted."""
        access = self._access
        if self.facts.standby and access.primary_url is not None:
            return connect_primary(access.source, access.primary_url, access.system)
        return self._connect()

    def _observe(self, connection: psycopg.Connection[Any]) -> None:
        slot, now = self.facts.slot, time.monotonic()
        if now >= self._slot_due:
            slot = read_slot(connection, self._slot)
            self._slot_due = now + SLOT_SECONDS
            self._lost = invalid(slot, self._slot)
        self.facts = Facts(in_recovery(connection), wal_end(connection), slot)
