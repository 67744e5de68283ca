"""A child as people see it."""

from __future__ import annotations

from dataclasses import dataclass

BREAKER_LEVELS = {
    "closed": 0,
    "half_open": 1,
    "open": 2,
}  # a breaker's states as metrics tell them: the higher, the worse


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One child as the parent sees it; `breaker` is closed, open or half_open."""

    name: str
    running: bool
    restarts: int
    breaker: str
