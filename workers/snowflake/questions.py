"""How long to wait until Snowflake is asked again what is committed: pure. It commits when it likes, 5 to 10 s after an append."""

from __future__ import annotations

from dataclasses import dataclass

STATUS_SECONDS = 0.25  # between two questions to the SDK, which answers from a cache that is a second old at most …
SOON_SECONDS = 0.03  # … or to Snowflake itself, for rows that are wanted soon …
STATUS_SECONDS_MAX, SOON_SECONDS_MAX = 2.0, 1.0
SOON_PART = 0.25  # … and later this part of the time that has passed
REPORT_SECONDS_MIN, REPORT_SECONDS_MAX = 0.5, 10.0  # between two looks at a pipe's report


def pause(silence_seconds: float) -> float:
    """So long after the channel was last used."""
    return min(STATUS_SECONDS_MAX, max(STATUS_SECONDS, silence_seconds * SOON_PART))


def soon_pause(committed_at: float | None, now: float) -> float:
    """For rows that are wanted soon; the oldest was committed in the source then (Unix seconds; None: not known). Both are wall clocks, which may
    differ by anything: the pause has its limits."""
    age = STATUS_SECONDS if committed_at is None else now - committed_at
    return min(SOON_SECONDS_MAX, max(SOON_SECONDS, age * SOON_PART))


@dataclass(slots=True)
class Reports:
    """When the report of a pipe is looked at, on a monotonic clock: soon after it was told of files, then at pauses that double. Files that come
    while others are under way do not put the next look off."""

    at: float = 0.0
    _pause: float = REPORT_SECONDS_MIN
    _idle: bool = True

    def offered(self, now: float) -> None:
        """The pipe was told of files."""
        due = now + REPORT_SECONDS_MIN
        self.at, self._pause, self._idle = due if self._idle else min(self.at, due), REPORT_SECONDS_MIN, False

    def looked(self, now: float) -> None:
        """It is asked."""
        self._pause = min(self._pause * 2, REPORT_SECONDS_MAX)
        self.at = now + self._pause

    def through(self) -> None:
        """It has told that no file is under way any more."""
        self._idle = True
