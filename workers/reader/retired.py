"""Handles that end: their table is copied again under a new handle, had its name changed, or is gone.

    works    ──CloseTable──► rows become durable ──TableClosed──► forgotten
    failed   ──────────────────────────────────────────────────► forgotten, with the rows that its actor does not have

Where rows must not be lost (the table goes on in the same generation) a handle that fails holds the source's position at its last complete row.
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import Durable, Failed, TableClosed, ToPublisher
from workers.reader.frontier import Frontier
from workers.reader.publisher import Publisher


class Retired:
    """The handles of one reader that get no more rows."""

    def __init__(self, publisher: Publisher, frontier: Frontier) -> None:
        self._publisher, self._frontier = publisher, frontier
        self._keep: dict[int, bool] = {}  # handle -> must its rows become durable?

    def __contains__(self, handle: int) -> bool:
        return handle in self._keep

    def add(self, handle: int, *, keep: bool) -> None:
        """This handle gets no more rows; with `keep` those under way must become durable."""
        self._keep[handle] = keep
        if self._publisher.works(handle):
            self._publisher.close_table(handle, drop=not keep)
        else:
            self._ended(handle, failed=True)

    def received(self, handle: int, message: ToPublisher) -> None:
        """A word from an actor."""
        if handle not in self._keep:
            return
        match message:
            case Durable(seq=seq):
                self._frontier.completed(handle, seq)
            case Failed():
                self._ended(handle, failed=True)
            case TableClosed():
                self._ended(handle, failed=False)
            case _:
                pass

    def _ended(self, handle: int, *, failed: bool) -> None:
        keep = self._keep.pop(handle)
        if failed:
            self._publisher.abandon(handle)
        if failed and keep:
            self._frontier.hold(handle)
        else:
            self._frontier.forget(handle)
