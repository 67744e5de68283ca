"""SQL sessions of an actor: kept per destination, lent to one job at a time, made when none is free.

`run` repeats a job as the failure's rule says (`failure`): in the same session when Snowflake is busy, in a new one when the old is gone. So a job is
idempotent, or looks first at what an earlier try has left: objects are made IF NOT EXISTS, the apply block compares and sets, the dead letter merges
by position. An answer that was lost is therefore no different from a statement that never came.

One session that has expired speaks for those that wait in the pool: they were as idle, or their server has forgotten all. They are let go, so that
the next try has a new one, at once.

A login that is refused reads the key file again, a few times: while a key is being exchanged the file and the user's public keys change one after
the other. Each `run` counts its tries from zero.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Full, LifoQueue
from typing import Any, TypeVar

import structlog
import tenacity
from snowflake.connector.vendored.requests.exceptions import RequestException

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.monitor import metrics
from workers.snowflake.connection import NO_ANSWER, Decrypt, connect
from workers.snowflake.failure import EXPIRED, Directive, SnowflakeError, of_sql
from workers.snowflake.tagging import Tag

KEPT_PER_DESTINATION = (
    8  # as many as apply at once, and two: idle ones cost Snowflake nothing, a login 0.5 s and a megabyte
)
TRIES_MAX = 5  # of one job; then its table's own retries go on, at longer pauses
RETRY_SECONDS_MAX = 60.0  # no try begins later than this: an apply that failed after minutes is not begun again here
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.25, 8.0  # doubled each time, and as much again at random

T = TypeVar("T")
log = structlog.get_logger()


class Sessions:
    """A small pool; safe for the actor's job threads."""

    def __init__(self, decrypt: Decrypt, directory: Path, name: str) -> None:
        self._decrypt, self._directory, self._name = decrypt, directory, name
        self._free: dict[tuple[Any, ...], LifoQueue[Any]] = {}

    def run(self, destination: Destination, tag: Tag, job: Callable[[Any], T]) -> T:
        """`job` with a session whose statements are tagged, repeated while that can help; the last failure otherwise."""

        def told(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            assert isinstance(error, SnowflakeError)
            metrics.SNOWFLAKE_RETRIES.labels(destination.name, error.rule).inc()
            log.info("statement_repeated", rule=error.rule, attempt=state.attempt_number, reason=error.line)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES_MAX) | tenacity.stop_after_delay(RETRY_SECONDS_MAX),
            wait=_pause_seconds,
            retry=tenacity.retry_if_exception(_helps_to_repeat),
            before_sleep=told,
            reraise=True,
        )
        found: T = retrying(self._run_once, destination, tag, job)
        return found

    def _run_once(self, destination: Destination, tag: Tag, job: Callable[[Any], T]) -> T:
        with self.borrow(destination) as connection:
            connection.tag = tag
            try:
                done = job(connection)
                metrics.snowflake_request(destination.name, tag.step)
                return done
            except EtlError:
                metrics.snowflake_request(destination.name, tag.step, failed=True)
                raise
            except RequestException as error:  # the connector lets an answer that breaks off through as it is
                metrics.snowflake_request(destination.name, tag.step, failed=True)
                place = f"destination {destination.name}"
                raise SnowflakeError(of_sql(NO_ANSWER), place, type(error).__name__, Kind.CHANNEL) from None

    @contextlib.contextmanager
    def borrow(self, destination: Destination) -> Iterator[Any]:
        """A session; after a failure it is used again only if it has no part in it."""
        key = (
            destination.id,
            destination.host,
            destination.account,
            destination.user,
            destination.database,
            destination.role,
        )
        free = self._free.setdefault(key, LifoQueue(KEPT_PER_DESTINATION))
        try:
            connection = free.get_nowait()
        except Empty:
            connection = connect(destination, self._decrypt, self._directory, purpose=self._name)
        try:
            yield connection
        except EtlError as error:
            if isinstance(error, SnowflakeError) and error.directive is Directive.AGAIN:
                self._keep(free, connection)
                raise
            expired = isinstance(error, SnowflakeError) and error.rule == EXPIRED
            for gone in [connection, *(_taken(free) if expired else ())]:
                with contextlib.suppress(Exception):  # it may be broken in any way; the next job makes another
                    gone.close(retry=False)
            raise
        self._keep(free, connection)

    @staticmethod
    def _keep(free: LifoQueue[Any], connection: Any) -> None:
        try:
            free.put_nowait(connection)
        except Full:
            connection.close()


def _taken(free: LifoQueue[Any]) -> Iterator[Any]:
    """All that are free."""
    with contextlib.suppress(Empty):
        while True:
            yield free.get_nowait()


_GROWING = tenacity.wait_exponential_jitter(
    multiplier=PAUSE_SECONDS_MIN, max=PAUSE_SECONDS_MAX, jitter=PAUSE_SECONDS_MIN
)


def _pause_seconds(state: tenacity.RetryCallState) -> float:
    """Before the next try; there is nothing to wait for where a session was only old."""
    error = state.outcome.exception() if state.outcome is not None else None
    old = isinstance(error, SnowflakeError) and error.rule == EXPIRED and state.attempt_number == 1
    return 0.0 if old else _GROWING(state)


def _helps_to_repeat(error: BaseException) -> bool:
    """Whether the statement may be well in a moment. A refused login is worth a few tries: the key may be changing just now."""
    if not isinstance(error, SnowflakeError):
        return False
    return error.directive in (Directive.AGAIN, Directive.RECONNECT) or error.rule == "key"
