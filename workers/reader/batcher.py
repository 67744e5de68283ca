"""Gathers frames until a batch is full or old enough; does nothing with a row but append its bytes.

A batch is sealed at `rows_max` rows, `bytes_max` bytes or `fill_seconds` after its first frame, whichever comes first. Cuts fall
anywhere, also in the middle of a transaction: positions do not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROW_KINDS = frozenset(b"IUDT")  # insert, update, delete, truncate
KIND_OFFSET = 25  # 'w', start, end and clock (8 bytes each) come before the pgoutput message


@dataclass(slots=True)
class Batcher:
    """The open batch. `fill_seconds` and `now` are seconds of the monotonic clock."""

    rows_max: int
    bytes_max: int
    fill_seconds: float
    frames: list[memoryview] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    opened: float = 0.0

    @property
    def empty(self) -> bool:
        """True when no frame waits."""
        return not self.frames

    @property
    def full(self) -> bool:
        """True when the batch must be sealed before another frame is taken."""
        return self.rows >= self.rows_max or self.bytes >= self.bytes_max

    def add(self, frame: memoryview, now: float) -> None:
        """Take one XLogData frame."""
        if not self.frames:
            self.opened = now
        self.frames.append(frame)
        self.bytes += len(frame)
        self.rows += frame[KIND_OFFSET] in ROW_KINDS

    def due_at(self) -> float:
        """When the open batch is to be sealed at the latest; infinity when it is empty."""
        return self.opened + self.fill_seconds if self.frames else float("inf")

    def seal(self) -> list[memoryview]:
        """The frames of the batch; the next one begins."""
        frames, self.frames, self.rows, self.bytes = self.frames, [], 0, 0
        return frames
