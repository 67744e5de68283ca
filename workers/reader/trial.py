"""Which row kills its actor: the segments that an actor may have died of are sent again piece by piece, each alone, until the row is found.

    crash ──► the segments begun and not accepted are suspects (none: those accepted and not durable); their tables stand trial
    piece, alone ─┬─ durable ──► the next piece; of two halves the second is then the guilty one, and is cut without another death
                  └─ crash ──┬─ several rows: cut in halves
                             └─ one row: once more, until it has killed POISON_KILLS fresh actors; then it goes to the dead letter
    all that was in flight at the crash is durable ──► the trial is over

Only a death by a signal that a program sends to itself counts (`exits.crashed_by_itself`), and one for want of memory: an allocation that failed, or
a SIGKILL by the kernel where it counts them (`supervision.shortage`). Any other SIGKILL says nothing of a row, and the same piece is tried again.
Want of memory cuts a piece like a crash, but condemns no row of less than MEMORY_ROW_BYTES_MIN: where that kills, memory is short whatever is sent.

The row's values go into the dead letter by the same encoder; a row that kills there, too, goes there without them (`Bury.BARE`).

A piece keeps the number of its segment. The publisher hides from its owner what is said of a piece that is not its segment's last.

Rows that travel as files are rehearsed instead: a piece is written and uploaded as a file that no loader is told of, and thrown away. A file that was
planned before the crash keeps its name and its rows that way, and none of them can be in two files. After that the segments go out again, each
in a file of its own (it may be several together that kill), without the rows that the trial has brought to the dead letter. Once a piece was
rehearsed the whole trial is a rehearsal, whatever channel the next actor opens: a later piece that was loaded would let the token pass it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from etl_supervisor.ipc.messages import Segment
from etl_supervisor.model.burial import Bury

MEMORY_ROW_BYTES_MIN = (
    1 << 20
)  # of Arrow; written as JSON with escapes, and held twice by the SDK, it is some twenty times as much
POISON_KILLS = 2  # alone each time: that two other causes hit the same row is not to be expected


@dataclass(frozen=True, slots=True)
class Piece:
    """`rows` rows of a segment from `start` on. `guilty`: one of its rows has killed, if the piece before it has not."""

    start: int
    rows: int
    guilty: bool = False
    kills: int = 0
    bury: Bury = Bury.NO

    def halves(self) -> list[Piece]:
        """Cut; the second half is guilty if the first is not."""
        half = self.rows // 2
        return [Piece(self.start, half), Piece(self.start + half, self.rows - half, guilty=True)]

    def killed(self) -> list[Piece]:
        """An actor has died of it."""
        if self.rows > 1:
            return self.halves()
        if self.bury is not Bury.NO:
            return [replace(self, bury=Bury.BARE)]
        kills = self.kills + 1
        return [replace(self, kills=kills, bury=Bury.WHOLE if kills >= POISON_KILLS else Bury.NO)]


@dataclass(slots=True)
class Trial:
    """The trial of one table: up to the segment `last`. `pieces` are what is left of the segment that is tried now, the first one is out;
    `begun`: its actor has begun with it. `rehearsing`: a piece that passes is not loaded by that."""

    last: int
    pieces: deque[Piece] = field(default_factory=deque)
    begun: bool = False
    rehearsing: bool = False
    rehearsed: int = 0  # segments up to this one have been
    size: int = 0  # of the piece, bytes of Arrow
    buried: list[int] = field(default_factory=list)  # rows of the segment that is rehearsed now

    def piece(self, segment: Segment) -> Piece:
        """What of the segment is sent now."""
        if not self.pieces:
            self.pieces.append(Piece(0, segment.rows))
        self.begun = False
        return self.pieces[0]

    def killed(self, *, memory: bool = False) -> None:
        """The actor has crashed (for want of `memory`); if it had begun with the piece, that was why."""
        innocent = memory and self.pieces[0].rows == 1 and self.size < MEMORY_ROW_BYTES_MIN
        if self.begun and not innocent:
            self.pieces.extendleft(reversed(self.pieces.popleft().killed()))
            self.begun = False

    def passed(self) -> bool:
        """The piece is durable, or was rehearsed; True when it was its segment's last."""
        passed = self.pieces.popleft()
        if passed.bury is not Bury.NO:
            self.buried.append(passed.start)
        if self.pieces and self.pieces[0].guilty and self.pieces[0].rows > 1:
            self.pieces.extendleft(reversed(self.pieces.popleft().halves()))
        return not self.pieces
