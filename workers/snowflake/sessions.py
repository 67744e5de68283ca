"""SQL sessions of an actor: kept per destination, lent to one job at a time, made when none is free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Destination
from workers.snowflake.connection import Decrypt, connect

KEPT_PER_DESTINATION = 4  # idle sessions cost Snowflake nothing, but each holds a token to renew


class Sessions:
    """A small pool; safe for the actor's job threads."""

    def __init__(self, decrypt: Decrypt, directory: Path, name: str) -> None:
        self._decrypt, self._directory, self._name = decrypt, directory, name
        self._free: dict[tuple[Any, ...], LifoQueue[Any]] = {}

    @contextlib.contextmanager
    def borrow(self, destination: Destination) -> Iterator[Any]:
        """A session; after a failure it is not used again."""
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
        except EtlError:
            with contextlib.suppress(Exception):  # it may be broken in any way; the next job makes another
                connection.close()
            raise
        if free.full():
            connection.close()
        else:
            free.put_nowait(connection)
