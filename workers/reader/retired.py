"""Handles that end: their table is copied again under a new handle, had its name changed, or is gone.

    works    ──CloseTable──► rows become durable ──TableClosed──► forgotten
    failed   ──────────────────────────────────────────────────► forgotten, with the rows that its actor does not have

Where rows must not be lost (the table goes on in the same generation) a handle that fails holds the source's position at its last complete row, until
the table begins anew or is gone: from then on nobody needs them.
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import Durable, Failed, TableClosed, ToPublisher
from workers.reader.frontier import Frontier
from workers.reader.publisher import Publisher

Whose = tuple[int, int]  # pipeline id, oid of the table


class Retired:
    """The handles of one reader that get no more rows."""

    def __init__(self, publisher: Publisher, frontier: Frontier) -> None:
        self._publisher, self._frontier = publisher, frontier
        self._whose: dict[int, Whose] = {}  # those that have not ended
        self._kept: dict[Whose, set[int]] = {}  # those whose rows must become durable: under way, or holding the source

    def __contains__(self, handle: int) -> bool:
        return handle in self._whose

    def add(self, handle: int, whose: Whose, *, keep: bool) -> None:
        """This handle gets no more rows. With `keep` those under way must become durable; without, none of the table that came before them."""
        self._whose[handle] = whose
        if keep:
            self._kept.setdefault(whose, set()).add(handle)
        else:
            for earlier in self._kept.pop(whose, ()):
                self._frontier.forget(earlier)
        if self._publisher.works(handle):
            self._publisher.close_table(handle, drop=not keep)
        else:
            self._ended(handle, failed=True)

    def received(self, handle: int, message: ToPublisher) -> None:
        """A word from an actor."""
        if handle not in self._whose:
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
        kept = self._kept.get(self._whose.pop(handle), set())
        if failed:
            self._publisher.abandon(handle)
        if failed and handle in kept:
            self._frontier.hold(handle)
        else:
            kept.discard(handle)
            self._frontier.forget(handle)
