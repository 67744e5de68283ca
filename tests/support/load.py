"""A session that changes rows of a source all the time, while a test breaks something."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.support.fix_postgres import Database

PAUSE_SECONDS = 0.01  # between two transactions: about a hundred of them per second

Change = Callable[[psycopg.Connection, random.Random], None]


@contextmanager
def load_on(database: Database, change: Change, seed: int = 11, **session: Any) -> Iterator[list[int]]:
    """One `change` per transaction until the block ends; the list counts the transactions. `session` is for its connection."""
    done, stop, chance = [0], threading.Event(), random.Random(seed)

    def work() -> None:
        with psycopg.connect(database.dsn, **session) as connection:
            while not stop.is_set():
                change(connection, chance)
                connection.commit()
                done[0] += 1
                stop.wait(PAUSE_SECONDS)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield done
    finally:
        stop.set()
        worker.join()
