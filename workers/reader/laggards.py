"""Which pipelines hold the others back: their rows do not become durable, while memory and the confirmed position are shared (pure).

A pipeline is stuck when its oldest row in flight has been the same for so long; sooner, when memory is short, because then the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

BLOCKED_SECONDS = 30.0  # the others wait: longer than a destination takes that is only slow


def oldest_of(
    pipelines: Iterable[str], handles: Iterable[tuple[str, int]], oldest: Callable[[list[int]], int | None]
) -> dict[str, int | None]:
    """The oldest batch in flight of each pipeline, given the handles of all, with whose they are."""
    found: dict[str, list[int]] = {name: [] for name in pipelines}
    for name, handle in handles:
        found[name].append(handle)
    return {name: oldest(those) for name, those in found.items()}


class Laggards:
    """`after_seconds` is how long a pipeline may be stuck before it is parked."""

    def __init__(self, after_seconds: float) -> None:
        self._after = after_seconds
        self._since: dict[str, tuple[int, float]] = {}  # pipeline -> (its oldest batch in flight, seen since)

    def stuck(self, oldest: Mapping[str, int | None], now: float, *, blocked: bool) -> list[str]:
        """Pipelines to park, given the number of each one's oldest batch in flight (None: none is). Never all of them."""
        for name, number in oldest.items():
            if number is None:
                self._since.pop(name, None)
            elif self._since.get(name, (None, 0.0))[0] != number:
                self._since[name] = (number, now)
        limit = min(self._after, BLOCKED_SECONDS) if blocked else self._after
        found = [name for name, (_, since) in self._since.items() if now - since >= limit]
        return found if len(found) < len(oldest) else []
