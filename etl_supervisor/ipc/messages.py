"""Every message there is: frozen dataclasses, one union per receiver.

A publisher (a reader, or a copy worker) talks to actors. A connection begins with Hello (which carries the descriptor of the
publisher's slab) and Welcome; after that every message on it belongs to these two incarnations. A publisher names a table by a handle of its own.

    publisher                              actor
    Hello(+ slab descriptor)        ───►
                                    ◄───   Welcome
    OpenTable                       ───►                      ensure landing, target, owner
                                    ◄───   TableOpened        applied; with `prove` also what is committed
    Segment (seq 1, 2, …)           ───►                      open the channel if it is not; filter, encode, append
                                    ◄───   Begun              a thread takes the rows of every seq up to this one in hand
                                    ◄───   Accepted           the SDK has the rows of every seq up to this one
                                    ◄───   Durable            committed up to the end of this seq; its slots may be reused
    Hurry(seq)                      ───►                      rows that wait to share a file do not wait any more
    Apply(fence)                    ───►                      one fenced block
                                    ◄───   Applied
    ReshapeTable                    ───►                      the shape changed: once everything sent before is durable, ALTER;
                                                              segments sent after it wait for it
    CloseTable                      ───►
                                    ◄───   TableClosed
    Keep                            ───►                      a READY table's state, for a state store that is lost
                                    ◄───   Kept
    ApplyTogether(fence)            ───►                      one fenced block for all tables of a pipeline; their home actors only load
                                    ◄───   AppliedTogether
    Shown(fence)                    ───►                      to the home actor of each of them: the target was moved
    Recall                          ───►                      the store was lost: what is known of a pipeline's tables?
                                    ◄───   Recalled
    any of these may be answered by  ◄───   Failed            the handle is dead until the next OpenTable

Loss of the connection means the actor (or the publisher) died: both forget everything about it; the publisher connects again, opens its
tables again and sends again what was not durable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from etl_supervisor.errors import Kind
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.burial import Bury
from etl_supervisor.model.child import ChildStatus
from etl_supervisor.model.pipeline import Destination, Load, SourceSpec
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.trace import Trace

OVERSIZE_SLOT = -1


@dataclass(frozen=True, slots=True)
class Hello:
    """First word of a publisher. Comes with the descriptor of its slab (`slots` slots of `slot_bytes` bytes)."""

    publisher: str
    incarnation: int
    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class OpenTable:
    """Make `table` ready for segments in `channel`, create or alter what is missing in Snowflake.

    `owner` is `system_identifier/slot` of the source: a landing table belongs to one (pipeline, owner). `epoch` fences applies of an older reader. A
    copy opens the table with a channel of its own. `since` is the token of the place from which `table` is the shape; a shape that Snowflake already
    has from a later place on is left as it is. `errors` is the channel's error counter up to which every refused row is accounted for. `fill_ms` is
    how long the pipeline fills a batch (0: a copy): who fills it shortly wants its rows soon. `load` is the path that the rows take, `policy` is how
    the table is applied. `former` is an owner from whom the table may be taken over. `channels` is how many channels the table has; `channel` is the
    first. `prove`: the channel is opened before TableOpened, which tells its tokens; otherwise with the first rows."""

    handle: int
    pipeline_id: int
    pipeline: str
    owner: str
    epoch: int
    generation: int
    channel: str
    destination: Destination
    table: Table
    since: str
    errors: int = 0
    policy: ApplyPolicy = field(default_factory=ApplyPolicy)
    fill_ms: int = 0
    load: Load = field(default_factory=Load)
    former: str = ""
    prove: bool = False
    channels: int = 1


@dataclass(frozen=True, slots=True)
class ReshapeTable:
    """From the next segment on, which begins after the token `since`, the table of this handle has the shape `table`."""

    handle: int
    table: Table
    since: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of one table in stream order, as Arrow IPC in slot `slot` (its `slot_generation`-th use), `length` bytes. `slot` is OVERSIZE_SLOT when
    the bytes are in a sealed memfd that comes with this message. `first` and `last` are the offset tokens of its first and last row. `seq` counts
    the segments of a handle from 1. `rows` rows are meant, from `start` on. On `trial` they are to be alone in the actor until they are durable:
    they may be what killed the one before (`workers.reader.trial`); to `rehearse` them is to do with them what a load does, without a load (Tried
    answers). One that was rehearsed goes into a file of its own (`apart`) without the rows that are in the dead letter by now (`left_out`). `trace`:
    their batch is followed by a trace."""

    handle: int
    seq: int
    slot: int
    slot_generation: int
    length: int
    rows: int
    first: str
    last: str
    version: int
    start: int = 0
    trial: bool = False
    bury: Bury = Bury.NO
    trace: Trace | None = None
    rehearse: bool = False
    apart: bool = False
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hurry:
    """Rows of every segment up to `seq` must not wait for others to share a file with."""

    handle: int
    seq: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring the target up to `fence`, a transaction's end: all rows below are durable. The rows of the copy have the commit_lsn `copied`."""

    handle: int
    fence: int
    copied: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a joint apply. `copied` as in Apply; `rows`: the window may hold rows of it."""

    table: TableName
    generation: int
    copied: int
    rows: bool


@dataclass(frozen=True, slots=True)
class ApplyTogether:
    """Bring these tables, which are all of a pipeline that can be shown, up to `fence` in one transaction: all their rows with commit_lsn < fence
    are durable, and it is a transaction's end. Shapes and policies are those that `_ETL_WATERMARK` has."""

    pipeline_id: int
    pipeline: str
    owner: str
    epoch: int
    destination: Destination
    fence: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The target shows every row below `fence`, by a joint apply of another actor that began then (Unix nanoseconds)."""

    handle: int
    fence: int
    began_ns: int


@dataclass(frozen=True, slots=True)
class CloseTable:
    """Flush and close the channel; `drop` forgets it in Snowflake too (a copy's channel)."""

    handle: int
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the state of a table (as the state store writes it), for the day on which the store is lost."""

    handle: int
    pipeline: str
    generation: int
    destination: Destination
    table: TableName
    state: str


@dataclass(frozen=True, slots=True)
class Recall:
    """The state store was lost: what is known of the tables of this pipeline that `owner` has?"""

    pipeline_id: int
    pipeline: str
    owner: str
    destination: Destination


ToActor = (
    ApplyTogether | Shown | Keep | Recall | Hello | OpenTable | ReshapeTable | Segment | Hurry | Apply | CloseTable
)


@dataclass(frozen=True, slots=True)
class Welcome:
    """First word of an actor."""

    actor: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class TableOpened:
    """The table takes segments. Tokens are None when there are none or they were not asked for; `errors` is the channel's error counter as far as
    known; `applied` is the target's watermark (exclusive commit_lsn; 0: never applied in this generation), `shown` the generation of the rows in the
    target (0: none)."""

    handle: int
    version: int
    committed: str | None
    appended: str | None
    errors: int
    applied: int
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A job has the rows of every segment up to `seq` in hand. If the actor dies now, it may be of them."""

    handle: int
    seq: int


@dataclass(frozen=True, slots=True)
class Tried:
    """The rows on trial were rehearsed, or are in the dead letter; none is loaded by that."""

    handle: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The SDK has taken the rows of every segment up to `seq`. They may still be lost."""

    handle: int
    seq: int


@dataclass(frozen=True, slots=True)
class Durable:
    """Every row of every segment up to `seq` is committed in Snowflake, or in the dead letter. `errors` is the error counter up to which every
    refused row is accounted for; `dead` how many rows of the table the dead letter holds (None: no row came into it since the table was opened)."""

    handle: int
    seq: int
    committed: str | None
    errors: int
    dead: int | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """The target shows every row below `fence`."""

    handle: int
    fence: int


@dataclass(frozen=True, slots=True)
class AppliedTogether:
    """All tables of the question show every row below `fence`; or, with a reason, none was moved. `began_ns`: when the actor took it in hand."""

    pipeline_id: int
    fence: int
    began_ns: int
    kind: Kind = Kind.APPLY
    place: str = ""
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class TableClosed:
    """The channel is closed."""

    handle: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The table is stopped at this actor. `operation` is open, append, commit, apply or close. `transient` says that another OpenTable may help
    without a person."""

    handle: int
    operation: str
    kind: Kind
    place: str
    reason: str
    remedy: str
    transient: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """The state is kept, or it could not be."""

    handle: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Recollection:
    """What is known of one table: its generation, its shape (as `wire` writes it) and the token since which that holds, and the state that was kept
    in this generation ("": none). `epoch` is the newest of any reader."""

    schema: str
    table: str
    generation: int
    shape: str
    since: str
    state: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """A part of the answer to Recall; `trouble` is why there is none."""

    pipeline_id: int
    tables: tuple[Recollection, ...]
    last: bool
    trouble: str


_OfTables = TableOpened | Begun | Tried | Accepted | Durable | Applied | TableClosed | Failed
ToPublisher = AppliedTogether | Kept | Recalled | Welcome | _OfTables


@dataclass(frozen=True, slots=True)
class Desired:
    """The monitor's word to the parent: what should run, from a poll that succeeded."""

    sources: tuple[SourceSpec, ...]


@dataclass(frozen=True, slots=True)
class Leased:
    """The monitor's word to the parent: these sources (ids) are its to run, until this moment (`model.tenure.clock`), and no others."""

    sources: tuple[int, ...]
    until: float


@dataclass(frozen=True, slots=True)
class CopyWanted:
    """A reader asks the parent to have one table of one pipeline copied. `bytes` is its size, 0 while nobody has looked: a copy worker that was
    given several tables asks for the large ones again, with their sizes."""

    source: str
    pipeline_id: int
    schema: str
    table: str
    generation: int
    epoch: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CopyEnded:
    """The copy of a table has ended, well or not; the state store has the result. A worker tells the parent, the parent (also for a worker that
    died) tells the reader."""

    pipeline_id: int
    schema: str
    table: str
    ok: bool


@dataclass(frozen=True, slots=True)
class ActorEnded:
    """The parent's word to publishers: an actor is dead. `crashed`: by itself, so that a row may be why; `memory`: there was not enough of it."""

    actor: int
    crashed: bool
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """A child's last word before it exits by itself: the line an operator reads."""

    kind: Kind
    place: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A child has booted: its breaker may close."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """The parent tells the monitor how its children are, for the metrics."""

    children: tuple[ChildStatus, ...]


ToParent = Desired | Leased | CopyWanted | CopyEnded | Trouble | Ready
FromParent = ActorEnded | CopyEnded | Supervised
Message = ToActor | ToPublisher | ToParent | FromParent
