"""Hands segments to the actors, and keeps them until their rows are durable.

    batch ──split──► queue ──memory free?──► run in the slab ──► Segment message ──► home actor of the table
                       │                          ▲                                       │
                       └ `blocked`: stop reading  └──────────── Durable ◄─────────────────┘

A handle is one table in one pipeline (or one copy). Its home actor is chosen by a hash of pipeline and table, so a table is always
at one actor. A batch for several pipelines is written once; its run comes back when the last of them is durable.

What a death leaves: when an actor dies its connection ends; we connect to the same address, say Hello, open its tables again and send
again every segment that was not durable. The actor filters what its channel has. Before that we wait for the parent's word how it died: after a
crash the segments that it had in hand are tried one by one (`trial`). When we die, the next publisher reads from the
slot again. Nothing here blocks: sockets queue, a full slab makes `blocked` true.
"""

from __future__ import annotations

import selectors
import time
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import structlog

from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.messages import (
    OVERSIZE_SLOT,
    Accepted,
    ActorEnded,
    AppliedTogether,
    Apply,
    ApplyTogether,
    Begun,
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
    Tried,
)
from etl_supervisor.model.table import Table
from etl_supervisor.model.trace import Trace
from workers.reader.outlets import Handle, Outlet, Sending, accuse
from workers.reader.pieces import position, split
from workers.reader.shelf import Memory, Shelf

log = structlog.get_logger()

WORD_SECONDS_MAX = 1.0  # the parent buries a child within milliseconds; an actor that only hung up is not buried


@dataclass(slots=True)
class _Waiting:
    """A piece of a batch that waits for memory, with the (handle, seq) it goes to."""

    batch: pa.RecordBatch
    size: int
    version: int
    goes_to: list[tuple[int, int]]
    trace: Trace | None


@dataclass(slots=True)
class _Link:
    """The way to one actor."""

    address: bytes
    connection: mailbox.Connection | None = None
    waits_until: float = 0.0  # for the parent's word


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
        self._shelf = Shelf(budget_bytes)
        self._sending = Sending(self._shelf, self._tell)
        self._selector = selector
        self._handles: dict[int, Handle] = {}
        self._joint: dict[int, ApplyTogether] = {}  # by pipeline: not answered yet
        self._waiting: deque[_Waiting] = deque()
        self.trace: Trace | None = None  # of the batch that is being published
        self._unhurried: set[int] = set()  # handles with rows in flight that were not hurried yet, and maybe others

    # -- what the owner does

    def home(self, pipeline_id: int, table: Table) -> int:
        """The actor of a table: the same one as long as the pool has this size."""
        return zlib.crc32(f"{pipeline_id}/{table.name}".encode()) % len(self._links)

    def open(self, opening: OpenTable, *, held: bool = False) -> None:
        """Open a table under `opening.handle`; one that is held is not opened."""
        state = Outlet.HELD if held else Outlet.OPEN
        handle = Handle(opening, self.home(opening.pipeline_id, opening.table), state)
        self._handles[opening.handle] = handle
        if not held:
            self._tell(handle.actor, opening)

    def reshape(self, number: int, table: Table, since: str) -> None:
        """Rows that are published from now on have this shape, of a higher version; it holds from the token `since` on."""
        handle = self._handles[number]
        shape = ReshapeTable(number, table, since)
        handle.reshapes.append(shape)
        if handle.sends:
            self._sending.shapes(handle)

    def reopen(self, number: int) -> None:
        """Try a failed table again: open it and send again what was not durable."""
        handle = self._handles[number]
        if handle.state is Outlet.FAILED:
            handle.state = Outlet.OPEN
            self._resend(handle)

    def hold(self, number: int) -> None:
        """Stop a table for good: its memory comes back, further segments are dropped."""
        handle = self._handles[number]
        handle.state, handle.trial = Outlet.HELD, None
        for _, memory in handle.in_flight:
            self._shelf.release(memory)
        handle.in_flight.clear()

    def publish(self, handles: Sequence[int], batch: pa.RecordBatch, version: int) -> list[tuple[int, int]]:
        """Queue a table's rows for these handles; returns the (handle, seq) that must become durable."""
        promised = []
        for piece, size in split(batch, self._shelf.piece_bytes_max):
            goes_to = []
            for number in handles:
                handle = self._handles[number]
                handle.seq += 1
                goes_to.append((number, handle.seq))
            self._waiting.append(_Waiting(piece, size, version, goes_to, self.trace))
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

    def shown(self, number: int, by: AppliedTogether) -> None:
        """Tell a table's actor that a joint apply has moved its target."""
        self._tell(self._handles[number].actor, Shown(number, by.fence, by.began_ns))

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
        if handle.trial is None:
            self._tell(handle.actor, handle.closing)

    def works(self, number: int) -> bool:
        """True while the actor has this handle open."""
        return self._handles[number].state is Outlet.OPEN

    def abandon(self, number: int) -> None:
        """Forget a handle that its actor does not have open, and its rows. It may be forgotten already: Failed and TableClosed can come together."""
        handle = self._handles.pop(number, None)
        for _, memory in handle.in_flight if handle is not None else ():
            self._shelf.release(memory)
        self.pump()

    @property
    def blocked(self) -> bool:
        """True while rows wait for memory: read nothing more."""
        return bool(self._waiting)

    @property
    def used_bytes(self) -> int:
        """Shared memory in use."""
        return self._shelf.used_bytes

    def pump(self, *, hurry: bool = False) -> None:
        """Move what waits into memory and to the actors, in order, as far as there is room."""
        self.connect()
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
        self._shelf.close()

    # -- sockets

    def connect(self) -> None:
        """Make sure that every actor's address has a connection; sends again what a dead actor had taken."""
        for actor, link in enumerate(self._links):
            if link.connection is None and time.monotonic() >= link.waits_until:
                self._connect(actor, link)

    def actor_ended(self, word: ActorEnded) -> list[ToPublisher]:
        """The parent's word; returns what the dead one had still said."""
        link = self._links[word.actor]
        last = self.ready(link.connection) if link.connection is not None else []
        if link.connection is None:
            if word.crashed:
                self._try(word.actor, memory=word.memory)
            link.waits_until = 0.0
            self.connect()
        return last

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
            link.waits_until = time.monotonic() + WORD_SECONDS_MAX
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
            case Begun(seq=seq):
                handle.begun = max(handle.begun, seq)
                if handle.trial is not None:
                    handle.trial.begun = True
                return False
            case Tried():
                if handle.trial is not None:
                    self._sending.tried(handle)
                return False
            case Accepted(seq=seq):
                handle.accepted = max(handle.accepted, seq)
            case Durable(seq=seq, errors=errors):
                handle.opening = replace(handle.opening, errors=errors)  # where an open after the actor's death begins
                if handle.trial is not None and not handle.trial.passed():
                    self._sending.piece(handle)
                    return False
                assert seq <= handle.accepted <= handle.seq, (seq, handle.accepted, handle.seq)
                while handle.in_flight and handle.in_flight[0][0].seq <= seq:
                    self._shelf.release(handle.in_flight.popleft()[1])
                if handle.trial is not None:
                    self._sending.go_on(handle)
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
        memory = self._shelf.put(waiting.batch, waiting.size)
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
            if handle.sends:
                self._tell(handle.actor, message, memory)
        return True

    def _takes(self, number: int) -> bool:
        handle = self._handles.get(number)
        return handle is not None and handle.state is not Outlet.HELD

    def _connect(self, actor: int, link: _Link) -> None:
        try:
            link.connection = mailbox.connect(link.address)
        except ConnectionError:
            return  # the parent is going away, and we with it
        self._selector.register(link.connection, selectors.EVENT_READ, self)
        hello = Hello(*self._hello, self._shelf.slots, self._shelf.slot_bytes)
        self._send(link, hello, [self._shelf.fd])
        for handle in self._handles.values():
            if handle.actor == actor and handle.state is Outlet.OPEN:
                self._resend(handle)
        for pipeline_id, message in self._joint.items():
            if pipeline_id % len(self._links) == actor:
                self._tell(actor, message)

    def _resend(self, handle: Handle) -> None:
        number = handle.opening.handle
        waiting = (item.version for item in self._waiting if any(goes_to == number for goes_to, _ in item.goes_to))
        self._sending.again(handle, waiting)
        self._unhurried.add(number)

    def _try(self, actor: int, *, memory: bool) -> None:
        """An actor has crashed: the tables of which it had rows in hand stand trial, or else those of which the SDK had rows."""
        for handle in accuse([one for one in self._handles.values() if one.actor == actor], memory=memory):
            log.warning("table_on_trial", pipeline=handle.opening.pipeline, table=str(handle.opening.table.name))

    def _tell(self, actor: int, message: ToActor, memory: Memory | None = None) -> None:
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


def _segment(waiting: _Waiting, memory: Memory) -> Segment:
    slot, generation = (memory.run.slot, memory.run.generation) if memory.run else (OVERSIZE_SLOT, 0)
    rows, version, trace = waiting.batch.num_rows, waiting.version, waiting.trace
    return Segment(0, 0, slot, generation, memory.length, rows, "", "", version, trace=trace)
