"""Hands segments to the actors, and keeps them until their rows are durable.

    batch ──split──► queue ──memory free?──► run in the slab ──► Segment message ──► home actor of the table
                       │                          ▲                                       │
                       └ `blocked`: stop reading  └──────────── Durable ◄─────────────────┘

A handle is one table in one pipeline (or one copy). Its home actor is chosen by a hash of pipeline and table, so a table is always
at one actor. A batch for several pipelines is written once; its run comes back when the last of them is durable.

What a death leaves: when an actor dies its connection ends; we connect to the same address, say Hello, open its tables again and send
again every segment that was not durable. The actor filters what its channel has. When we die, the next publisher reads from the
slot again. Nothing here blocks: sockets queue, a full slab makes `blocked` true.
"""

from __future__ import annotations

import os
import selectors
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import pyarrow as pa

from etl_supervisor.ipc import mailbox, segment
from etl_supervisor.ipc.messages import (
    OVERSIZE_SLOT,
    Accepted,
    AppliedTogether,
    Apply,
    ApplyTogether,
    CloseTable,
    Durable,
    Failed,
    Hello,
    Hurry,
    Keep,
    OpenTable,
    Recall,
    Recalled,
    ReshapeTable,
    Segment,
    Shown,
    TableClosed,
    ToActor,
    ToPublisher,
)
from etl_supervisor.model.table import Table
from workers.reader.pieces import position, split

SEGMENT_BYTES_MAX = 4 << 20  # the SDK encodes an append in one go: a few MB keep its other channels moving


class Outlet(Enum):
    """Whether a handle takes segments."""

    OPEN = auto()  # OpenTable was sent; the actor queues until it is done
    FAILED = auto()  # stopped by the actor; `reopen` sends everything again
    HELD = auto()  # stopped for good in this life: segments are dropped, the frontier is pinned


@dataclass(slots=True)
class _Memory:
    """Where the bytes of a segment are; shared by the handles it goes to."""

    run: segment.Run | None
    fd: int | None
    length: int
    users: int


@dataclass(slots=True)
class _Handle:
    opening: OpenTable  # in the shape of the oldest row in flight
    actor: int
    state: Outlet = Outlet.OPEN
    seq: int = 0
    accepted: int = 0
    in_flight: deque[tuple[Segment, _Memory]] = field(default_factory=deque)
    reshapes: deque[ReshapeTable] = field(default_factory=deque)  # the shapes since, in order
    closing: CloseTable | None = None
    hurried: int = 0


@dataclass(slots=True)
class _Waiting:
    """A piece of a batch that waits for memory, with the (handle, seq) it goes to."""

    batch: pa.RecordBatch
    size: int
    version: int
    goes_to: list[tuple[int, int]]


@dataclass(slots=True)
class _Link:
    """The way to one actor."""

    address: bytes
    connection: mailbox.Connection | None = None


class Publisher:
    """The publishing end of one reader or copy worker. `selector` gets its sockets, with `self` as data."""

    def __init__(
        self,
        name: str,
        incarnation: int,
        addresses: Sequence[bytes],
        budget_bytes: int,
        selector: selectors.BaseSelector,
    ) -> None:
        self._hello = (name, incarnation)
        self._links = [_Link(address) for address in addresses]
        self._slab = segment.SlabWriter(budget_bytes)
        self._selector = selector
        self._handles: dict[int, _Handle] = {}
        self._joint: dict[int, ApplyTogether] = {}  # by pipeline: not answered yet
        self._waiting: deque[_Waiting] = deque()
        self._oversize_fds = 0
        self._unhurried: set[int] = set()  # handles with rows in flight that were not hurried yet, and maybe others

    # -- what the owner does

    def home(self, pipeline_id: int, table: Table) -> int:
        """The actor of a table: the same one as long as the pool has this size."""
        return zlib.crc32(f"{pipeline_id}/{table.name}".encode()) % len(self._links)

    def open(self, opening: OpenTable, *, held: bool = False) -> None:
        """Open a table under `opening.handle`; one that is held is not opened."""
        state = Outlet.HELD if held else Outlet.OPEN
        handle = _Handle(opening, self.home(opening.pipeline_id, opening.table), state)
        self._handles[opening.handle] = handle
        if not held:
            self._tell(handle.actor, opening)

    def reshape(self, number: int, table: Table, since: str) -> None:
        """Rows that are published from now on have this shape, of a higher version; it holds from the token `since` on."""
        handle = self._handles[number]
        shape = ReshapeTable(number, table, since)
        handle.reshapes.append(shape)
        if handle.state is Outlet.OPEN:
            self._tell(handle.actor, shape)

    def reopen(self, number: int) -> None:
        """Try a failed table again: open it and send again what was not durable."""
        handle = self._handles[number]
        if handle.state is Outlet.FAILED:
            handle.state = Outlet.OPEN
            self._resend(handle)

    def hold(self, number: int) -> None:
        """Stop a table for good: its memory comes back, further segments are dropped."""
        handle = self._handles[number]
        handle.state = Outlet.HELD
        for _, memory in handle.in_flight:
            self._release(memory)
        handle.in_flight.clear()

    def publish(self, handles: Sequence[int], batch: pa.RecordBatch, version: int) -> list[tuple[int, int]]:
        """Queue a table's rows for these handles; returns the (handle, seq) that must become durable."""
        promised = []
        for piece, size in split(batch, min(SEGMENT_BYTES_MAX, self._slab.slots * self._slab.slot_bytes // 4)):
            goes_to = []
            for number in handles:
                handle = self._handles[number]
                handle.seq += 1
                goes_to.append((number, handle.seq))
            self._waiting.append(_Waiting(piece, size, version, goes_to))
            promised += goes_to
        self.pump()
        return promised

    def apply(self, number: int, fence: int, copied: int) -> None:
        """Ask for the target to be brought up to `fence`; the rows of the copy have the commit_lsn `copied`."""
        self._tell(self._handles[number].actor, Apply(number, fence, copied))

    def apply_together(self, message: ApplyTogether) -> None:
        """Ask for all tables of a pipeline to be brought up to a fence; AppliedTogether answers, also after an actor's death."""
        self._joint[message.pipeline_id] = message
        self._tell(message.pipeline_id % len(self._links), message)

    def shown(self, number: int, fence: int) -> None:
        """Tell a table's actor that a joint apply has moved its target."""
        self._tell(self._handles[number].actor, Shown(number, fence))

    def keep(self, message: Keep) -> None:
        """Have a table's state kept; Kept answers. It is lost with the actor: an open table is asked for again."""
        self._tell(self._handles[message.handle].actor, message)

    def recall(self, message: Recall) -> None:
        """Ask what is known of a pipeline; Recalled answers, unless the actor dies."""
        self._tell(message.pipeline_id % len(self._links), message)

    def close_table(self, number: int, *, drop: bool) -> None:
        """Close a channel once its rows are durable; TableClosed answers, or Failed."""
        handle = self._handles[number]
        handle.closing = CloseTable(number, drop)
        self._tell(handle.actor, handle.closing)

    def works(self, number: int) -> bool:
        """True while the actor has this handle open."""
        return self._handles[number].state is Outlet.OPEN

    def abandon(self, number: int) -> None:
        """Forget a handle that its actor does not have open, and its rows. It may be forgotten already: Failed and TableClosed can come together."""
        handle = self._handles.pop(number, None)
        for _, memory in handle.in_flight if handle is not None else ():
            self._release(memory)
        self.pump()

    @property
    def blocked(self) -> bool:
        """True while rows wait for memory: read nothing more."""
        return bool(self._waiting)

    @property
    def used_bytes(self) -> int:
        """Shared memory in use."""
        return self._slab.used_bytes

    def pump(self, *, hurry: bool = False) -> None:
        """Move what waits into memory and to the actors, in order, as far as there is room."""
        while self._waiting and self._place(self._waiting[0]):
            self._waiting.popleft()
        if hurry or self._waiting:
            self.hurry()

    def hurry(self, only: Iterable[int] | None = None) -> None:
        """No row in flight (of these handles) waits any more for others to share a file with."""
        for number in self._unhurried & self._handles.keys() if only is None else only:
            self._unhurried.discard(number)
            handle = self._handles[number]
            newest = handle.in_flight[-1][0].seq if handle.in_flight else 0
            if newest > handle.hurried and handle.state is Outlet.OPEN:
                handle.hurried = newest
                self._tell(handle.actor, Hurry(number, newest))

    def stop(self) -> None:
        """Close everything; the kernel frees the slab with its last descriptor."""
        for link in self._links:
            if link.connection is not None:
                self._drop(link)
        self._slab.close()

    # -- sockets

    def connect(self) -> None:
        """Make sure that every actor's address has a connection; sends again what a dead actor had taken."""
        for actor, link in enumerate(self._links):
            if link.connection is None:
                self._connect(actor, link)

    def ready(self, connection: mailbox.Connection) -> list[ToPublisher]:
        """A connection is readable or writable: send what is queued, return what came."""
        link = next((link for link in self._links if link.connection is connection), None)
        if link is None:
            return []
        received: list[ToPublisher] = []
        try:
            connection.flush()
            while (found := connection.receive()) is not None:
                message = found[0]
                if self._note(message):
                    received.append(message)  # type: ignore[arg-type]
            self._watch(link)
        except (ConnectionError, ValueError):
            self._drop(link)
            self.connect()
        return received

    # -- inside

    def _note(self, message: object) -> bool:
        """Keep the books; False for messages of no interest to the owner (a handle that is gone or held)."""
        if isinstance(message, Recalled):
            return True
        if isinstance(message, AppliedTogether):
            return self._joint.pop(message.pipeline_id, None) is not None
        number = getattr(message, "handle", None)
        handle = self._handles.get(number) if isinstance(number, int) else None
        if handle is None or handle.state is Outlet.HELD:
            return False
        match message:
            case Accepted(seq=seq):
                handle.accepted = max(handle.accepted, seq)
            case Durable(seq=seq, errors=errors):
                handle.opening = replace(handle.opening, errors=errors)  # where an open after the actor's death begins
                assert seq <= handle.accepted <= handle.seq, (seq, handle.accepted, handle.seq)
                while handle.in_flight and handle.in_flight[0][0].seq <= seq:
                    self._release(handle.in_flight.popleft()[1])
                self.pump()
            case Failed():
                handle.state = Outlet.FAILED
            case TableClosed():
                self.abandon(message.handle)
        return True

    def _place(self, waiting: _Waiting) -> bool:
        """Give a piece memory and send it; False when there is none."""
        goes_to = [(n, seq) for n, seq in waiting.goes_to if self._takes(n)]
        if not goes_to:
            return True
        memory = self._allocate(waiting)
        if memory is None:
            return False
        memory.users = len(goes_to)
        template = _segment(waiting, memory)
        for number, seq in goes_to:
            handle = self._handles[number]
            generation = handle.opening.generation
            message = replace(
                template,
                handle=number,
                seq=seq,
                first=position(waiting.batch, 0, generation).token,
                last=position(waiting.batch, -1, generation).token,
            )
            handle.in_flight.append((message, memory))
            self._unhurried.add(number)
            if handle.state is Outlet.OPEN:
                self._tell(handle.actor, message, memory)
        return True

    def _takes(self, number: int) -> bool:
        handle = self._handles.get(number)
        return handle is not None and handle.state is not Outlet.HELD

    def _allocate(self, waiting: _Waiting) -> _Memory | None:
        if self._slab.fits(waiting.size):
            written = self._slab.write(waiting.batch, waiting.size)
            return None if written is None else _Memory(written[0], None, written[1], 0)
        if self._oversize_fds:
            return None  # one at a time: it may exceed the budget
        fd, length = segment.oversize(waiting.batch, waiting.size)
        self._oversize_fds += 1
        return _Memory(None, fd, length, 0)

    def _release(self, memory: _Memory) -> None:
        memory.users -= 1
        if memory.users:
            return
        if memory.run is not None:
            self._slab.release(memory.run)
        if memory.fd is not None:
            os.close(memory.fd)
            self._oversize_fds -= 1

    def _connect(self, actor: int, link: _Link) -> None:
        try:
            link.connection = mailbox.connect(link.address)
        except ConnectionError:
            return  # the parent is going away, and we with it
        self._selector.register(link.connection, selectors.EVENT_READ, self)
        hello = Hello(*self._hello, self._slab.slots, self._slab.slot_bytes)
        self._send(link, hello, [self._slab.fd])
        for handle in self._handles.values():
            if handle.actor == actor and handle.state is Outlet.OPEN:
                self._resend(handle)
        for pipeline_id, message in self._joint.items():
            if pipeline_id % len(self._links) == actor:
                self._tell(actor, message)

    def _resend(self, handle: _Handle) -> None:
        """The shapes and rows as they came: each shape stands before its first row."""
        self._forget_shapes(handle)
        self._tell(handle.actor, handle.opening)
        shapes = deque(handle.reshapes)
        for message, memory in handle.in_flight:
            while shapes and shapes[0].table.version <= message.version:
                self._tell(handle.actor, shapes.popleft())
            self._tell(handle.actor, message, memory)
        for shape in shapes:
            self._tell(handle.actor, shape)
        handle.hurried = 0
        self._unhurried.add(handle.opening.handle)
        if handle.closing is not None:
            self._tell(handle.actor, handle.closing)

    def _forget_shapes(self, handle: _Handle) -> None:
        """Shapes that no row in flight and none that waits for memory has."""
        number = handle.opening.handle
        versions = [message.version for message, _ in handle.in_flight]
        versions += [item.version for item in self._waiting if any(goes_to == number for goes_to, _ in item.goes_to)]
        while handle.reshapes and handle.reshapes[0].table.version <= min(versions, default=1 << 31):
            shape = handle.reshapes.popleft()
            handle.opening = replace(handle.opening, table=shape.table, since=shape.since)

    def _tell(self, actor: int, message: ToActor, memory: _Memory | None = None) -> None:
        """Send to an actor; without a connection it is sent when there is one, from the books."""
        link = self._links[actor]
        if link.connection is not None:
            self._send(link, message, [memory.fd] if memory is not None and memory.fd is not None else [])

    def _send(self, link: _Link, message: ToActor, fds: list[int]) -> None:
        assert link.connection is not None
        try:
            link.connection.send(message, fds)
            self._watch(link)
        except ConnectionError:
            pass  # the selector reports the end of the stream; `ready` connects again and resends

    def _watch(self, link: _Link) -> None:
        if link.connection is not None:
            write = selectors.EVENT_WRITE if link.connection.wants_write else 0
            self._selector.modify(link.connection, selectors.EVENT_READ | write, self)

    def _drop(self, link: _Link) -> None:
        assert link.connection is not None
        self._selector.unregister(link.connection)
        link.connection.close()
        link.connection = None


def _segment(waiting: _Waiting, memory: _Memory) -> Segment:
    slot, generation = (memory.run.slot, memory.run.generation) if memory.run else (OVERSIZE_SLOT, 0)
    return Segment(0, 0, slot, generation, memory.length, waiting.batch.num_rows, "", "", waiting.version)
