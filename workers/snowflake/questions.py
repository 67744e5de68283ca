"""How long to wait until Snowflake is asked again what is committed: pure. It commits when it likes, 5 to 10 s after an append."""

from __future__ import annotations

from dataclasses import dataclass

STATUS_SECONDS = 0.25  # between two questions to the SDK, which answers from a cache that is a second old at most …
SOON_SECONDS = 0.03  # … or to Snowflake itself, for rows that are wanted soon …
STATUS_SECONDS_MAX, SOON_SECONDS_MAX = 2.0, 1.0
SOON_PART = 0.5  # … and later this part of the time that has passed …
PART = 0.25  # … or this one
REPORT_SECONDS_MIN, REPORT_SECONDS_MAX = 0.5, 10.0  # between two looks at a pipe's report …
REPORT_PART = 0.5  # … or this part: a load is seen at most half as late again as it ended


def pause(silence_seconds: float) -> float:
    """So long after the channel was last used."""
    return _growing(silence_seconds, PART, STATUS_SECONDS, STATUS_SECONDS_MAX)


def soon_pause(silence_seconds: float) -> float:
    """For rows that are wanted soon; so long ago the oldest of them was appended. How old they were by then does not matter: what waited for an actor
    to start is not to wait for a question, too."""
    return _growing(silence_seconds, SOON_PART, SOON_SECONDS, SOON_SECONDS_MAX)


@dataclass(slots=True)
class Reports:
    """When the report of a pipe is looked at, on a monotonic clock: soon after it was told of files, then at pauses that grow. Files that come
    while others are under way do not put the next look off."""

    at: float = 0.0
    _told: float = 0.0
    _idle: bool = True

    def offered(self, now: float) -> None:
        """The pipe was told of files."""
        due = now + REPORT_SECONDS_MIN
        self.at, self._told, self._idle = due if self._idle else min(self.at, due), now, False

    def looked(self, now: float) -> None:
        """It is asked."""
        self.at = now + _growing(now - self._told, REPORT_PART, REPORT_SECONDS_MIN, REPORT_SECONDS_MAX)

    def through(self) -> None:
        """It has told that no file is under way any more."""
        self._idle = True


def _growing(passed_seconds: float, part: float, least: float, most: float) -> float:
    return min(most, max(least, passed_seconds * part))
