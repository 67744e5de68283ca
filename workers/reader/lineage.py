"""After a promotion: does Snowflake hold anything of the history that was lost? (pure)

    old timeline   ──── A ──── B ──── C          C reached us, but not the standby
    new timeline   ──── A ──── B ─┬─ D           forked before C

Our confirmed position is checked against the fork before the stream starts (`source.starting_point`). Rows may have been landed beyond it: C has a
position after the fork, and D, which takes the same place in the new history, would be taken for a row that was landed before. Each channel's tokens
are looked at when it opens; until all have been, no row is read. PostgreSQL 17 can keep such a C from being sent (`synchronized_standby_slots`).

A table that is stopped by its own trouble is not waited for: it is not written to.
"""

from __future__ import annotations

from collections.abc import Iterable

from etl_supervisor.ipc.messages import Failed, TableOpened, ToPublisher
from etl_supervisor.model import lsn
from etl_supervisor.model.position import Position
from etl_supervisor.policy import Directive, directive


class Lineage:
    """What is still to be looked at: nothing when `forked_at` is 0."""

    def __init__(self, forked_at: int, handles: Iterable[int]) -> None:
        self._forked_at = forked_at
        self._waiting = set(handles) if forked_at else set()

    @property
    def proven(self) -> bool:
        """True when every channel is of the present history."""
        return not self._waiting

    def received(self, message: ToPublisher) -> str | None:
        """A word from an actor; why our rows are not of this history, None when that is not said."""
        match message:
            case TableOpened(handle=handle, committed=committed, appended=appended) if handle in self._waiting:
                self._waiting.discard(handle)
                return self._beyond([token for token in (committed, appended) if token])
            case Failed(handle=handle, kind=kind) if directive(kind) is Directive.TABLE:
                self._waiting.discard(handle)
        return None

    def _beyond(self, tokens: list[str]) -> str | None:
        newest = max((Position.parse(token).commit_lsn for token in tokens), default=0)
        if newest < self._forked_at:
            return None
        return (
            f"rows up to {lsn.text(newest)} were landed, but the server's history forked at {lsn.text(self._forked_at)}"
        )
