"""How long to wait until Snowflake is asked again what is committed: pure. It commits when it likes, 5 to 10 s after an append."""

from __future__ import annotations

STATUS_SECONDS = 0.25  # between two questions to the SDK, which answers from a cache that is a second old at most …
SOON_SECONDS = 0.03  # … or to Snowflake itself, for rows that are wanted soon …
STATUS_SECONDS_MAX, SOON_SECONDS_MAX = 2.0, 1.0
SOON_PART = 0.25  # … and later this part of the time that has passed


def pause(silence_seconds: float) -> float:
    """So long after the channel was last used."""
    return min(STATUS_SECONDS_MAX, max(STATUS_SECONDS, silence_seconds * SOON_PART))


def soon_pause(committed_at: float | None, now: float) -> float:
    """For rows that are wanted soon; the oldest was committed in the source then (Unix seconds; None: not known). Both are wall clocks, which may
    differ by anything: the pause has its limits."""
    age = STATUS_SECONDS if committed_at is None else now - committed_at
    return min(SOON_SECONDS_MAX, max(SOON_SECONDS, age * SOON_PART))
