"""The way of a batch that is followed (`etl_supervisor.monitor.tracing`), from shared memory into the target.

    decode (reader) ─► share ─┬─► encode, append     in a thread; of several segments that go together each has its own
                              ├─► upload             where rows travel as files: the file comes to the stage, and a loader is told
                              └─► durable            from the append's answer until the token is committed
    apply                                               of a table: a trace of its own, with links to the segments that it moved

A segment carries what its spans hang on (`Segment.trace`; None: it is not followed, and this costs a comparison). It is sent again after an actor's
death, so a trace may have `share` twice: the first has no `durable`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from etl_supervisor.ipc.messages import OpenTable, Segment
from etl_supervisor.model import lsn
from etl_supervisor.model.position import Position
from etl_supervisor.model.trace import Trace
from etl_supervisor.monitor.tracing import Facts, record
from workers.snowflake.channel import Underway

LINKS_MAX = 100  # per table, the oldest ones: OpenTelemetry's SDK keeps 128 of a span


def shared(opening: OpenTable, segment: Segment) -> Segment:
    """The segment has come through shared memory; what follows hangs on that span."""
    if segment.trace is None:
        return segment
    facts = {**_table(opening), **_rows(segment), "bytes": segment.length}
    return replace(segment, trace=record("share", segment.trace.at_ns, facts, parent=segment.trace))


@contextmanager
def stage(name: str, opening: OpenTable, segments: Sequence[Segment], rows: int = 0) -> Iterator[None]:
    """A span around what is done with these segments, which are followed, and maybe others, of `rows` in all. An error is named by its type."""
    if not segments:
        yield
        return
    began, error = time.time_ns(), ""
    try:
        yield
    except Exception as raised:
        error = type(raised).__name__
        raise
    finally:
        for segment in segments:
            facts = {**_table(opening), **_rows(segment), **({"rows.together": rows} if rows else {})}
            record(name, began, facts, parent=segment.trace, error=error)


class Followed:
    """The followed segments of one table: those that Snowflake has accepted, by their numbers, and those that are durable and not applied."""

    def __init__(self) -> None:
        self._accepted: dict[int, int] = {}  # seq -> Unix nanoseconds
        self._durable: deque[tuple[int, Trace]] = deque()

    def took(self, item: Underway) -> None:
        """Snowflake has accepted this."""
        if item.segment.trace is not None:
            self._accepted[item.segment.seq] = time.time_ns()

    def durable(self, opening: OpenTable, items: Iterable[Underway]) -> None:
        """These are durable."""
        for item in items:
            began = self._accepted.pop(item.segment.seq, None)
            if began is None or item.segment.trace is None:
                continue
            facts = {**_table(opening), **_rows(item.segment)}
            trace = record("durable", began, facts, parent=item.segment.trace)
            if trace is not None and len(self._durable) < LINKS_MAX:
                self._durable.append((Position.parse(item.segment.last).commit_lsn, trace))

    def applied(self, opening: OpenTable, fence: int, began_ns: int) -> None:
        """Every row before `fence` is in the target."""
        links = []
        while self._durable and self._durable[0][0] < fence:
            links.append(self._durable.popleft()[1])
        if links:
            record("apply", began_ns, {**_table(opening), "lsn.fence": lsn.text(fence)}, links=links)


def _table(opening: OpenTable) -> Facts:
    return {"pipeline": opening.pipeline, "table": str(opening.table.name), "channel": opening.channel}


def _rows(segment: Segment) -> Facts:
    first, last = (Position.parse(token).commit_lsn for token in (segment.first, segment.last))
    return {"rows": segment.rows, "lsn.first": lsn.text(first), "lsn.last": lsn.text(last)}
