"""Marker rows: how long it takes until a row that is committed now is in every target.

Markers are numbered, and each is written in every source. The targets are asked past the proxies, by sessions that are made again when the local
Snowflake was started again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from snowflake.connector.errors import Error
from snowflake.connector.vendored.requests import RequestException

from tests.support.fix_deployment import POLL_SECONDS
from tests.support.fix_local_snowflake import sql_session
from tests.support.soak.world import SOURCES, World
from workers.snowflake.failure import SnowflakeError

MARKER_SECONDS_MAX = 300.0  # a breaker's cool-down and several faults that follow one another fit in
WRITE_SECONDS_MAX = 60.0  # PostgreSQL itself is recovering
NOT_NOW = (Error, SnowflakeError, RequestException)


class HangError(Exception):
    """A marker did not arrive."""


@dataclass
class Marker:
    """One marker; `missing` are the sources whose targets do not show it yet."""

    number: int
    written: float
    missing: set[str] = field(default_factory=lambda: set(SOURCES))


@dataclass
class Markers:
    """Those that are on their way."""

    world: World
    waiting: list[Marker] = field(default_factory=list)
    written: int = 0
    _sessions: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    _cursors: dict[str, Any] = field(default_factory=dict)

    def write(self) -> Marker:
        """Commit the next one in every source."""
        self.written += 1
        deadline = time.monotonic() + WRITE_SECONDS_MAX
        for name in SOURCES:
            while not self._insert(name):
                if time.monotonic() > deadline:
                    raise HangError(f"{name} takes no rows")
                time.sleep(POLL_SECONDS)
        marker = Marker(self.written, time.monotonic())
        self.waiting.append(marker)
        return marker

    def look(self) -> list[Marker]:
        """The markers that have arrived since the last look; HangError when one is overdue. Nobody is asked while the local Snowflake is down: the
        connector would try for a minute, and the same thread has to start the server again."""
        if not self.world.snowflake.running:
            return []
        for name in SOURCES:
            first = min((marker.number for marker in self.waiting if name in marker.missing), default=None)
            if first is not None:
                shown = self._shown(name, first)
                for marker in self.waiting:
                    marker.missing -= {name} if marker.number in shown else set()
        arrived = [marker for marker in self.waiting if not marker.missing]
        self.waiting = [marker for marker in self.waiting if marker.missing]
        late = next((m for m in self.waiting if time.monotonic() > m.written + MARKER_SECONDS_MAX), None)
        if late is not None:
            raise HangError(f"marker {late.number} of {', '.join(sorted(late.missing))} did not come")
        return arrived

    def close(self) -> None:
        """End the sessions."""
        for name in list(self._sessions):
            self._forget(name)

    def _insert(self, name: str) -> bool:
        try:
            self.world.deployment.pipelines[name].execute(
                f"insert into markers values ({self.written}) on conflict do nothing"
            )
        except psycopg.OperationalError:
            return False
        return True

    def _shown(self, name: str, first: int) -> set[int]:
        there = self.world.direct(name)
        question = f'SELECT N FROM "{there.database}"."{there.schema}"."MARKERS" WHERE N >= {first}'
        try:
            if name not in self._cursors:
                stack = contextlib.ExitStack()
                session = stack.enter_context(sql_session(there))
                self._sessions[name], self._cursors[name] = stack, stack.enter_context(session.cursor())
            return {int(row[0]) for row in self._cursors[name].execute(question).fetchall()}
        except NOT_NOW:  # no such table yet, or the server was started again
            self._forget(name)
            return set()

    def _forget(self, name: str) -> None:
        self._cursors.pop(name, None)
        if stack := self._sessions.pop(name, None):
            with contextlib.suppress(*NOT_NOW):
                stack.close()
