"""Which pipelines hold the others back: their rows do not become durable, while memory and the confirmed position are shared (pure).

A pipeline is stuck when its oldest row in flight has been the same for so long, or one of its tables is held for so long; sooner, when memory is
short, because then the others wait for it. A pipeline that is parked stays so while one of its tables is ailing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from etl_supervisor.model.pipeline import Pipeline
from workers.reader.follower import Follower
from workers.reader.frontier import Frontier

BLOCKED_SECONDS = 30.0  # the others wait: longer than a destination takes that is only slow


def oldest(pipelines: Iterable[Pipeline], followers: Iterable[Follower], frontier: Frontier) -> dict[str, int | None]:
    """What `Laggards` wants to know of each pipeline."""
    handles: dict[str, list[int]] = {pipeline.name: [] for pipeline in pipelines}
    for follower in followers:
        handles[follower.pipeline.name].append(follower.handle)
    return {name: frontier.oldest(found) for name, found in handles.items()}


def ailing(followers: Iterable[Follower]) -> bool:
    """Whether one of these tables is held, or has failed since it last went well."""
    return any(follower.held or follower.state.attempts for follower in followers)


class Laggards:
    """`after_seconds` is how long a pipeline may be stuck before it is parked."""

    def __init__(self, after_seconds: float) -> None:
        self._after = after_seconds
        self._since: dict[str, tuple[int, float]] = {}  # pipeline -> (its oldest batch in flight, seen since)

    def stuck(self, oldest: Mapping[str, int | None], now: float, *, blocked: bool) -> list[str]:
        """Pipelines to park, given the number of each one's oldest batch in flight (None: none is; 0: a table is held). Never all of them."""
        for name, number in oldest.items():
            if number is None:
                self._since.pop(name, None)
            elif self._since.get(name, (None, 0.0))[0] != number:
                self._since[name] = (number, now)
        limit = min(self._after, BLOCKED_SECONDS) if blocked else self._after
        found = [name for name, (_, since) in self._since.items() if now - since >= limit]
        return found if len(found) < len(oldest) else []
