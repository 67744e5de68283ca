"""Copies that readers have asked for and no worker has begun: they wait a moment, so that those asked for together share a worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from etl_supervisor.ipc.messages import CopyEnded, CopyWanted
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.supervision.births import Child
from etl_supervisor.supervision.decide import copies, table_of

# Tables become known one after the other, and a worker takes a second of CPU to start. So copies wait until none was asked for for so long, or the
# oldest has waited for as long as the second number says.
GATHER_SECONDS, GATHER_SECONDS_MAX = 1.0, 5.0


class Copying:
    """What waits. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._wanted: tuple[CopyWanted, ...] = ()
        self._since = self._newest = float("inf")

    def ask(self, *wanted: CopyWanted) -> None:
        """More of them."""
        self._wanted += wanted
        self._newest = time.monotonic()
        self._since = min(self._since, self._newest)

    def forget(self, source: str | None = None) -> None:
        """Nobody waits for the copies of this source (None: of any) any more."""
        self._wanted = tuple(wanted for wanted in self._wanted if source not in (None, wanted.source))

    def due_at(self) -> float:
        """When `take` may have something."""
        if not self._wanted:
            return float("inf")
        return min(self._newest + GATHER_SECONDS, self._since + GATHER_SECONDS_MAX)

    def take(
        self, readers: Mapping[str, SourceSpec], running: Iterable[tuple[CopyWanted, ...]]
    ) -> tuple[tuple[CopyWanted, ...], ...]:
        """The copies that start now, each group in a worker of its own."""
        if not self._wanted:
            self._since = float("inf")
            return ()
        now = time.monotonic()
        if now < self.due_at():
            return ()
        decided = copies(self._wanted, readers, running)
        self._wanted, self._since, self._newest = decided.wait, now, now
        return decided.start


def no_longer(child: Child, message: CopyWanted | CopyEnded) -> CopyWanted | None:
    """A copy worker is done with a table, well or not; what it had been asked. None from a reader, or for a reader that is gone."""
    for wanted in child.copying:
        if table_of(wanted) == table_of(message):
            child.copying.remove(wanted)
            return None if child.stopping else wanted
    return None
