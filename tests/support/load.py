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


def neighbours(connection: psycopg.Connection, first: int, rows: int, kind: str) -> None:
    """Change neighbouring rows of `items`: i(nsert), u(pdate that leaves TOAST alone), d(elete a quarter), or another key for each."""
    last = first + rows - 1
    match kind:
        case "i":
            connection.execute(
                "insert into items select g, g, 'large', repeat(md5(g::text), 70) from generate_series(%s::int, %s) g"
                " on conflict (id) do update set n = items.n + 1, note = 'again'",
                [first, last],
            )
        case "u":
            connection.execute("update items set n = n + 1 where id between %s and %s", [first, last])
        case "d":
            connection.execute("delete from items where id between %s and %s", [first, first + rows // 4])
        case _:
            connection.execute("delete from items where id between -%s and -%s", [last, first])
            connection.execute("update items set id = -id where id between %s and %s", [first, last])
