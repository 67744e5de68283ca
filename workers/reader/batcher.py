"""Gathers frames until a batch is full or old enough; looks at chunks, never at a single row.

A batch is sealed at `rows_max` rows, `bytes_max` bytes or `fill_seconds` after its first frame, whichever comes first. Cuts fall
anywhere, also in the middle of a transaction: positions do not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workers.reader.frame import Chunk

_ROW = np.zeros(256, dtype=bool)
_ROW[list(b"IUDT")] = True  # insert, update, delete, truncate


@dataclass(slots=True)
class Batcher:
    """The open batch. `fill_seconds` and `now` are seconds of the monotonic clock."""

    rows_max: int
    bytes_max: int
    fill_seconds: float
    chunks: list[Chunk] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    opened: float = 0.0

    @property
    def empty(self) -> bool:
        """True when no frame waits."""
        return not self.chunks

    @property
    def full(self) -> bool:
        """True when the batch must be sealed before another frame is taken."""
        return self.rows >= self.rows_max or self.bytes >= self.bytes_max

    def take(self, chunk: Chunk, now: float) -> Chunk | None:
        """Take frames until the batch is full (the last frame may exceed `bytes_max`); what is left, or None."""
        if not len(chunk):
            return None
        rows = np.cumsum(_ROW[chunk.kinds])
        sizes = np.cumsum(chunk.end - chunk.start)
        count = 1 + min(
            int(np.searchsorted(rows, self.rows_max - self.rows)),
            int(np.searchsorted(sizes, self.bytes_max - self.bytes)),
        )
        count = min(count, len(chunk))
        if not self.chunks:
            self.opened = now
        self.chunks.append(chunk.part(0, count))
        self.rows += int(rows[count - 1])
        self.bytes += int(sizes[count - 1])
        return chunk.part(count, len(chunk)) if count < len(chunk) else None

    def due_at(self) -> float:
        """When the open batch is to be sealed at the latest; infinity when it is empty."""
        return self.opened + self.fill_seconds if self.chunks else float("inf")

    def seal(self) -> list[Chunk]:
        """The frames of the batch; the next one begins."""
        chunks, self.chunks, self.rows, self.bytes = self.chunks, [], 0, 0
        return chunks
