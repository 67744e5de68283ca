"""How much the SDK holds of all channels of an actor, as far as we know: it tells nobody.

What was appended counts until its channel was flushed. The SDK also sends by itself, so what is older than a few seconds counts only against its own
channel. Whoever holds nothing may always append once: a channel never waits for another one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

# The SDK packs and sends in buffers of its own: 16 MB are 100 MB more of an actor, and more is not faster (`make bench-load`: actor_rss_mb).
HELD_BYTES_MAX = 16 << 20
SENT_SECONDS = 5.0  # ten times streaming.FLUSH_MS


class Held:
    """Bytes by owner. Used by many threads."""

    def __init__(self, limit: int = HELD_BYTES_MAX, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._lock = threading.Lock()
        self._bytes: dict[Hashable, tuple[int, float]] = {}

    def add(self, owner: Hashable, size: int) -> None:
        """The SDK has taken this much more."""
        with self._lock:
            self._bytes[owner] = (self._bytes.get(owner, (0, 0.0))[0] + size, self._clock())

    def clear(self, owner: Hashable) -> None:
        """The SDK holds nothing of this one any more."""
        with self._lock:
            self._bytes.pop(owner, None)

    def full(self, owner: Hashable, size: int) -> bool:
        """Whether the owner must flush what it has before it appends this much."""
        with self._lock:
            if owner not in self._bytes:
                return False
            since = self._clock() - SENT_SECONDS
            held = sum(count for one, (count, at) in self._bytes.items() if at >= since or one == owner)
            return held + size > self._limit
