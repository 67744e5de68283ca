"""What follows a batch from process to process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """The last span that has ended, as W3C's traceparent, and when it did (Unix nanoseconds)."""

    parent: str
    at_ns: int
