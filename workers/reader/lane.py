"""The threads that read a copy: each has a connection under the snapshot, takes one range after the other and puts converted pieces into a queue.

    ranges (deque, in order) ──► lane: COPY, read, convert  ──► queue (bounded) + bell ──► the worker's loop
                             ──► lane                       ──►

The time goes into the server, and into Arrow's kernels and libpq, which let other threads run. The queue's bound is what a lane may read ahead;
a worker that is
short of memory leaves the pieces there.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind
from workers.reader.copyboth import BrokenOffError, ServerError
from workers.reader.copyout import copy_out
from workers.reader.copytuples import CopyTuples
from workers.reader.csv import Converted, converted, parse_lines, text_of
from workers.reader.frame import Chunk
from workers.reader.ranges import Range
from workers.reader.snapshot import Found

PUT_SECONDS = 0.5  # how soon a lane notices that nobody wants its pieces any more
JOIN_SECONDS_MAX = 5.0  # a lane whose COPY was cancelled ends at once
SERVER_ENDS = (
    "08",
    "57P",
)  # SQLSTATEs of a server that ends the session: shutdown, crash, an operator; no fault of the table
_BELL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """One range of the table that the worker knows by `handle`."""

    handle: int
    found: Found
    range: Range


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a task, in no order; after the last ones comes one without rows (None), or why they can't be read."""

    task: Task
    rows: Converted | EtlError | None


class Lanes:
    """All lanes of one round. `fileno` becomes readable when `take` may have something."""

    def __init__(self, connections: Sequence[psycopg.Connection[Any]], tasks: Sequence[Task]) -> None:
        self._connections = connections
        self._tasks = deque(tasks)
        self._pieces: queue.Queue[Piece | Exception] = queue.Queue(len(connections))
        self._ended = threading.Event()
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._threads = [
            threading.Thread(target=self._run, args=(connection,), name=f"lane-{number}", daemon=True)
            for number, connection in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """For selectors."""
        return self._ours.fileno()

    def hear(self) -> None:
        """The bell has rung: it rings again with the next piece. Look what there is afterwards."""
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(_BELL_BYTES)

    def take(self) -> Piece | None:
        """The next piece; None when there is none now. What went wrong in a lane is raised here."""
        try:
            found = self._pieces.get_nowait()
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the threads, whatever they are at."""
        self._ended.set()
        for connection, thread in zip(self._connections, self._threads, strict=True):
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=JOIN_SECONDS_MAX) if thread.is_alive() else None
            thread.join(JOIN_SECONDS_MAX)
        for end in (self._ours, self._theirs):
            end.close()

    # -- in the threads

    def _run(self, connection: psycopg.Connection[Any]) -> None:
        try:
            while not self._ended.is_set():
                try:
                    task = self._tasks.popleft()
                except IndexError:
                    return
                try:
                    # Rolled back, so that locks on its indexes end with a range: a REINDEX that waits for them lets the next range wait, too.
                    with connection.transaction(force_rollback=True):
                        self._read(connection, task)
                except EtlError as error:
                    self._put(Piece(task, error))
        except Exception as error:  # raised again in the worker's loop
            self._put(error)

    def _read(self, connection: psycopg.Connection[Any], task: Task) -> None:
        for rows in read(connection, task.found, task.range):
            self._put(Piece(task, rows))
            if self._ended.is_set():
                return
        self._put(Piece(task, None))

    def _put(self, item: Piece | Exception) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._pieces.put(item, timeout=PUT_SECONDS)
                with contextlib.suppress(OSError):  # a full bell rings already
                    self._theirs.send(b"!")
                return


def read(connection: psycopg.Connection[Any], found: Found, wanted: Range) -> Iterator[Converted]:
    """The rows of a range, chunk by chunk, in whichever form they come. The errors of `chunks`, and of bytes that are no rows of the table."""
    tuples = CopyTuples(found.table)
    for chunk in chunks(connection, found, wanted):
        if found.binary:
            rows = tuples.read(chunk)
            if rows.rows:  # the trailer may come alone
                yield rows
        else:
            yield converted(found.table, parse_lines(text_of(chunk), len(chunk), found.table))


def chunks(connection: psycopg.Connection[Any], found: Found, wanted: Range) -> Iterator[Chunk]:
    """The rows of a range as the server sends them. BrokenOffError when the connection ends; EtlError(COPY) why it sends none otherwise: never with
    a value (SQLSTATE class 22 repeats them)."""
    try:
        yield from copy_out(connection, found.query(wanted).as_bytes(connection))
    except ServerError as error:
        if error.sqlstate.startswith(SERVER_ENDS):
            raise BrokenOffError(error.text) from None
        reason = f"its rows can't be read (SQLSTATE {error.sqlstate})"
        if not error.sqlstate.startswith("22") and error.text:
            reason = error.text
        raise EtlError(Kind.COPY, f"table {found.table.name}", reason, "check that the table may be read") from None
