"""What a publisher knows of one handle, and how its rows are sent (again): in the order of the stream, each shape before its first row.

A handle on trial (`trial`) has one piece of one segment out at a time; everything else of it waits, shapes and its end included. Segments that were
rehearsed stay in flight; those of a later shape can't be rehearsed before the others are durable, and need not be: no actor can have begun with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import structlog

from etl_supervisor.ipc.messages import CloseTable, OpenTable, ReshapeTable, Segment, ToActor
from etl_supervisor.model import lsn
from etl_supervisor.model.burial import Bury
from etl_supervisor.model.pipeline import LoadPath
from workers.reader.pieces import position
from workers.reader.shelf import Memory, Shelf
from workers.reader.trial import Trial

LAST_VERSION = 1 << 31  # of a shape; above every one

log = structlog.get_logger()


class Outlet(Enum):
    """Whether a handle takes segments."""

    OPEN = auto()  # OpenTable was sent; the actor queues until it is done
    FAILED = auto()  # stopped by the actor; `reopen` sends everything again
    HELD = auto()  # stopped for good in this life: segments are dropped, the frontier is pinned


@dataclass(slots=True)
class Handle:
    """One table at its actor. `begun` and `accepted` are segments, by their numbers."""

    opening: OpenTable  # in the shape of the oldest row in flight
    actor: int
    state: Outlet = Outlet.OPEN
    seq: int = 0
    begun: int = 0
    accepted: int = 0
    in_flight: deque[tuple[Segment, Memory]] = field(default_factory=deque)
    reshapes: deque[ReshapeTable] = field(default_factory=deque)  # the shapes since, in order
    shapes_told: int = 0  # how many of them the actor knows
    trial: Trial | None = None
    closing: CloseTable | None = None
    hurried: int = 0

    @property
    def sends(self) -> bool:
        """Whether what comes goes out at once."""
        return self.state is Outlet.OPEN and self.trial is None

    @property
    def may_be_tried(self) -> bool:
        """Whether there are rows to be sent piece by piece."""
        return self.state is Outlet.OPEN and bool(self.in_flight)

    @property
    def by_files(self) -> bool:
        """Whether its rows travel as files: a file that was planned has its rows."""
        return self.opening.load.path is not LoadPath.STREAMING and self.opening.channels == 1

    @property
    def suspect(self) -> bool:
        """Whether the actor had rows of it in hand."""
        return self.begun > self.accepted

    @property
    def doubtful(self) -> bool:
        """Whether the SDK had rows of it. Those of a file had left the process."""
        return self.in_flight[0][0].seq <= self.accepted and not self.by_files

    @property
    def next_tried(self) -> int | None:
        """Which segment in flight (its place among them) is tried next; None at the end of the trial."""
        assert self.trial is not None
        for place, (segment, _) in enumerate(self.in_flight):
            if segment.seq > self.trial.last or segment.version > self.in_flight[0][0].version:
                return None
            if segment.seq > self.trial.rehearsed:
                return place
        return None


class Sending:
    """Sends what a handle has. `tell` takes the actor, the message and the memory that goes with it."""

    def __init__(self, shelf: Shelf, tell: Callable[[int, ToActor, Memory | None], None]) -> None:
        self._shelf, self._tell = shelf, tell

    def again(self, handle: Handle, waiting: Iterable[int]) -> None:
        """To an actor that knows nothing. `waiting` are the versions of rows that are not in flight yet."""
        self._forget_shapes(handle, waiting)
        self._tell(handle.actor, handle.opening, None)
        handle.shapes_told, handle.begun, handle.hurried = 0, handle.accepted, 0
        if handle.trial is not None:
            self.piece(handle)
        else:
            self._everything(handle)

    def shapes(self, handle: Handle, version: int = LAST_VERSION) -> None:
        """The shapes up to this version that the actor does not know yet."""
        while handle.shapes_told < len(handle.reshapes):
            shape = handle.reshapes[handle.shapes_told]
            if shape.table.version > version:
                return
            self._tell(handle.actor, shape, None)
            handle.shapes_told += 1

    def piece(self, handle: Handle) -> None:
        """Of a handle on trial: the piece of its oldest segment whose turn it is."""
        turn = handle.next_tried
        assert handle.trial is not None
        assert turn is not None, "a trial ends with its last segment"
        segment, memory = handle.in_flight[turn]
        handle.trial.rehearsing = handle.trial.rehearsing or handle.by_files
        piece, generation = handle.trial.piece(segment), handle.opening.generation
        rows = self._shelf.rows(memory).slice(piece.start, piece.rows)
        handle.trial.size = rows.nbytes
        first, last = (position(rows, row, generation) for row in (0, piece.rows - 1))
        if piece.bury is not Bury.NO:
            place = {"pipeline": handle.opening.pipeline, "table": str(handle.opening.table.name)}
            log.error("row_kills_actors", **place, lsn=lsn.text(first.commit_lsn), values=piece.bury.value)
        self.shapes(handle, segment.version)
        cut = replace(segment, start=piece.start, rows=piece.rows, trial=True, bury=piece.bury)
        cut = replace(cut, first=first.token, last=last.token, rehearse=handle.trial.rehearsing)
        self._tell(handle.actor, cut, memory)

    def tried(self, handle: Handle) -> None:
        """A piece was rehearsed: the next one, of this segment or of another."""
        trial, place = handle.trial, handle.next_tried
        assert trial is not None
        assert place is not None, "a piece was out"
        trial.rehearsing, handle.begun = True, handle.accepted
        if not trial.passed():
            self.piece(handle)
            return
        segment, memory = handle.in_flight[place]
        left_out = tuple(sorted({*segment.left_out, *trial.buried}))
        handle.in_flight[place] = replace(segment, apart=True, left_out=left_out), memory
        trial.rehearsed = segment.seq
        trial.buried.clear()
        self.go_on(handle)

    def go_on(self, handle: Handle) -> None:
        """A segment on trial has passed: the next one, or the end of the trial."""
        assert handle.trial is not None
        if handle.next_tried is not None:
            self.piece(handle)
            return
        handle.trial = None
        log.info("trial_ended", pipeline=handle.opening.pipeline, table=str(handle.opening.table.name))
        self._everything(handle)

    def _everything(self, handle: Handle) -> None:
        for message, memory in handle.in_flight:
            self.shapes(handle, message.version)
            self._tell(handle.actor, message, memory)
        self.shapes(handle)
        if handle.closing is not None:
            self._tell(handle.actor, handle.closing, None)

    def _forget_shapes(self, handle: Handle, waiting: Iterable[int]) -> None:
        """Shapes that no row in flight and none that waits for memory has."""
        versions = [*(message.version for message, _ in handle.in_flight), *waiting]
        while handle.reshapes and handle.reshapes[0].table.version <= min(versions, default=LAST_VERSION):
            shape = handle.reshapes.popleft()
            handle.opening = replace(handle.opening, table=shape.table, since=shape.since)


def accuse(handles: Iterable[Handle], *, memory: bool = False) -> list[Handle]:
    """The actor of these handles has crashed (for want of `memory`): who is on trial now, and was not. If a piece was out, it alone is guilty."""
    here = [handle for handle in handles if handle.may_be_tried]
    tried = [handle.trial for handle in here if handle.trial is not None and handle.trial.begun]
    for trial in tried:
        trial.killed(memory=memory)
    if tried:
        return []
    suspects = [one for one in here if one.suspect] or [one for one in here if one.doubtful]
    new = [one for one in suspects if one.trial is None]
    for handle in new:
        handle.trial = Trial(handle.in_flight[-1][0].seq)
    return new
