"""Statements beside the stream, on a connection and in a thread of their own: whatever hangs there, the reader's loop goes on.

The loop asks (`ask`, never waits) and later finds what the work left behind. Work that is still under way is not asked for twice. A
connection that broke is made again at the next ask. The thread dies with the process, also in the middle of something.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError

STATEMENT_TIMEOUT_MS = 5_000  # what a statement aside may take in the server
LIMITS = {"tcp_user_timeout": "10000"}  # libpq, in ms: a network that swallows everything is noticed
CLOSE_SECONDS_MAX = 1.0  # a drain does not wait longer for a thread that hangs

Connect = Callable[[], psycopg.Connection[Any]]
Work = Callable[[psycopg.Connection[Any]], None]


class Aside:
    """One kind of work. `trouble` is the line of the last failure, empty after a success."""

    def __init__(self, name: str, connect: Connect, work: Work) -> None:
        self._connect, self._work = connect, work
        self._connection: psycopg.Connection[Any] | None = None
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have the work done once, soon; nothing happens while it is under way."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread, or leave it to the process's end when it hangs."""
        self._ending.set()
        self._wanted.set()
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wanted.wait()
            if self._ending.is_set():
                break
            try:
                self._once()
            except (EtlError, psycopg.Error) as error:
                self.trouble = _line(error)
                self._hang_up()
            self._wanted.clear()
        self._hang_up()

    def _once(self) -> None:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}".encode())
        self._work(self._connection)
        self.trouble = ""

    def _hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def _line(error: EtlError | psycopg.Error) -> str:
    if isinstance(error, EtlError):
        return error.line
    return " ".join((error.diag.message_primary or type(error).__name__).split())
