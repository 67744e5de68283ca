"""How channels of an actor end: each in a thread, because it may take seconds, and nobody waits for it but an orderly end, within a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import structlog

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.monitor import metrics
from workers.snowflake.desk import Desk
from workers.snowflake.jobs import Jobs, Lane
from workers.snowflake.loading import LoadChannel
from workers.snowflake.preparing import Prepared

CLOSE_SECONDS_MAX = 6.0  # of all channels together, at the end
STOP_BEAT_SECONDS = 0.5  # between two signs of life meanwhile

log = structlog.get_logger()


class Closing:
    """Of the channels whose jobs run here."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def end(self, opening: OpenTable, sdk: LoadChannel | None, *, drop: bool = False) -> None:
        """Without a flush: what was not committed comes again."""
        if sdk is not None:
            metrics.CHANNELS_OPEN.dec()
            self._later(opening, sdk, drop=drop)

    def orphan(self, opening: OpenTable, result: LoadChannel | tuple[LoadChannel | None, Prepared]) -> None:
        """It was opened for somebody who is gone."""
        sdk = result[0] if isinstance(result, tuple) else result
        if sdk is not None:
            self._later(opening, sdk)

    def all(self, desks: Iterable[Desk], beat: Callable[[], None]) -> None:
        """Flush and close what is open, within a limit; threads that hang are left to the end of the process."""
        closing = [
            self._later(desk.opening, desk.sdk, flush=bool(desk.channel.undurable))
            for desk in desks
            if desk.sdk is not None
        ]
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        while not all(future.done() for future in closing) and time.monotonic() < deadline:
            wait(closing, STOP_BEAT_SECONDS)
            beat()

    def _later(self, opening: OpenTable, sdk: LoadChannel, *, flush: bool = False, drop: bool = False) -> Future[Any]:
        job = partial(sdk.close, flush=flush, drop=drop)
        return self._jobs.start(opening.destination.id, Lane.STREAM, job, _closed)


def _closed(future: Future[Any]) -> None:
    if (error := future.exception()) is not None:
        log.info("channel_close_failed", error=type(error).__name__)
