"""What a selector looks at, made so whatever it looked at before."""

from __future__ import annotations

import selectors
from typing import Protocol


class Watched(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int:
        """For selectors."""


def watch(selector: selectors.BaseSelector, what: Watched, events: int, data: object) -> None:
    """Look for these events, or (0) not at all."""
    watched = selector.get_map().get(what)
    if watched is None and events:
        selector.register(what, events, data)
    elif watched is not None and not events:
        selector.unregister(what)
    elif watched is not None and watched.events != events:
        selector.modify(what, events, data)
