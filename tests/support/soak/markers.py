"""Marker rows: how long it takes until a row that is committed now is in every target.

Markers are numbered, and each is written in every source. The targets are asked past the proxies, by a session that is made again when the local
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
from tests.support.fix_local_snowflake import destination_in, sql_session
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
    _session: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _cursor: Any = None

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
        shown = self._shown()
        for marker in self.waiting:
            marker.missing = {name for name in marker.missing if (name, marker.number) not in shown}
        arrived = [marker for marker in self.waiting if not marker.missing]
        self.waiting = [marker for marker in self.waiting if marker.missing]
        late = next((m for m in self.waiting if time.monotonic() > m.written + MARKER_SECONDS_MAX), None)
        if late is not None:
            raise HangError(f"marker {late.number} of {', '.join(sorted(late.missing))} did not come")
        return arrived

    def close(self) -> None:
        """End the session."""
        self._cursor = None
        with contextlib.suppress(*NOT_NOW):
            self._session.close()

    def _insert(self, name: str) -> bool:
        try:
            self.world.deployment.pipelines[name].execute(
                f"insert into markers values ({self.written}) on conflict do nothing"
            )
        except psycopg.OperationalError:
            return False
        return True

    def _shown(self) -> set[tuple[str, int]]:
        """Sources with the markers that their targets show. One question for all: it takes a core's time from those who are looked at."""
        questions = []
        for name in SOURCES:
            first = min((marker.number for marker in self.waiting if name in marker.missing), default=None)
            if first is not None:
                there = self.world.deployment.others[name]
                questions.append(
                    f"""SELECT '{name}', N FROM "{there.database}"."{there.schema}"."MARKERS" WHERE N >= {first}"""
                )
        if not questions:
            return set()
        try:
            if self._cursor is None:
                session = self._session.enter_context(sql_session(destination_in(self.world.snowflake)))
                self._cursor = self._session.enter_context(session.cursor())
            return {(name, int(number)) for name, number in self._cursor.execute(" UNION ALL ".join(questions))}
        except NOT_NOW:  # no such table yet, or the server was started again
            self.close()
            return set()
